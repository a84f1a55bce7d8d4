/** Conditions that an image has on the driver (NVIDIA_REQUIRE_…): alternatives between spaces, each of conditions between commas. */

const OPERATORS = ["!=", "<=", ">=", "=", "<", ">"] as const;
type Operator = (typeof OPERATORS)[number];

/** Of the machine: versions of the driver and its CUDA, the GPU's compute capability and brand. */
export type Properties = Readonly<Partial<Record<"cuda" | "arch" | "driver" | "brand", string>>>;

const NAMES: readonly (keyof Properties)[] = ["cuda", "arch", "driver", "brand"];

/** Conditions on other things are taken for met. Throws Error naming the requirement that is not, or that cannot be read. */
export function assertRequirements(requirements: readonly string[], properties: Properties): void {
  for (const requirement of requirements) {
    const alternatives = requirement.split(" ").map((term) => term.split(",").filter((text) => text.trim() !== ""));
    const known = alternatives
      .map((conditions) => conditions.flatMap((text) => parse(text)))
      .filter((conditions) => conditions.length > 0);
    if (known.length > 0 && !known.some((conditions) => conditions.every((one) => isMet(one, properties))))
      throw new Error(
        `the image requires "${requirement}" of the driver, which has ${described(properties)}: use a newer driver, or an image for an older CUDA (NVIDIA_DISABLE_REQUIRE=true skips this)`,
      );
  }
}

interface Condition {
  readonly name: keyof Properties;
  readonly operator: Operator;
  readonly value: string;
}

function parse(text: string): Condition[] {
  const at = text.search(/[<>=!]/);
  if (at < 0) throw new Error(`invalid requirement "${text}": no comparison in it`);
  const name = NAMES.find((known) => known === text.slice(0, at));
  if (name === undefined) return [];
  const operator = OPERATORS.find((known) => text.startsWith(known, at));
  if (operator === undefined) throw new Error(`invalid requirement "${text}": no comparison in it`);
  const value = text.slice(at + operator.length);
  if (name !== "brand" && !isVersion(value)) throw new Error(`invalid requirement "${text}": "${value}" is no version`);
  return [{ name, operator, value }];
}

function isMet({ name, operator, value }: Condition, properties: Properties): boolean {
  const own = properties[name];
  if (own === undefined) return false;
  const order = name === "brand" ? compareText(own, value) : compareVersions(own, value);
  switch (operator) {
    case "=":
      return order === 0;
    case "!=":
      return order !== 0;
    case "<":
      return order < 0;
    case "<=":
      return order <= 0;
    case ">":
      return order > 0;
    case ">=":
      return order >= 0;
  }
}

const isVersion = (text: string): boolean => /^v?\d+(?:\.\d+){0,2}$/.test(text);
const compareText = (a: string, b: string): number => (a < b ? -1 : a > b ? 1 : 0);

function compareVersions(a: string, b: string): number {
  const [left, right] = [a, b].map((text) => text.replace(/^v/, "").split(".").map(Number)) as [number[], number[]];
  const differs = [0, 1, 2].find((index) => (left[index] ?? 0) !== (right[index] ?? 0));
  return differs === undefined ? 0 : (left[differs] ?? 0) - (right[differs] ?? 0);
}

function described(properties: Properties): string {
  const all = Object.entries(properties).map(([name, value]) => `${name} ${value}`);
  return all.length === 0 ? "told nothing of itself" : all.join(", ");
}
