/** The Prometheus text format, 0.0.4: written, and read again where the metrics of several machines are put together. */

export type MetricType = "counter" | "gauge" | "histogram" | "summary" | "untyped";
export type Labels = Readonly<Record<string, string>>;

export interface Sample {
  /** Behind the family's name: "_bucket", "_sum" and "_count" of a histogram. */
  readonly suffix?: string;
  readonly labels: Labels;
  readonly value: number;
}

export interface Family {
  readonly name: string;
  readonly type: MetricType;
  readonly help: string;
  readonly samples: readonly Sample[];
}

export const CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8";

export function exposition(families: Iterable<Family>): string {
  return [...families].map(written).join("");
}

function written({ name, type, help, samples }: Family): string {
  const lines = samples.map(
    ({ suffix = "", labels, value }) => `${name}${suffix}${labelled(labels)} ${numeral(value)}\n`,
  );
  return `# HELP ${name} ${help.replaceAll("\\", "\\\\").replaceAll("\n", "\\n")}\n# TYPE ${name} ${type}\n${lines.join("")}`;
}

function labelled(labels: Labels): string {
  const pairs = Object.entries(labels).map(
    ([key, value]) => `${key}="${value.replaceAll("\\", "\\\\").replaceAll('"', '\\"').replaceAll("\n", "\\n")}"`,
  );
  return pairs.length === 0 ? "" : `{${pairs.join(",")}}`;
}

function numeral(value: number): string {
  if (Number.isNaN(value)) return "NaN";
  if (Number.isFinite(value)) return String(value);
  return value > 0 ? "+Inf" : "-Inf";
}

const SUFFIXES: Readonly<Partial<Record<MetricType, readonly string[]>>> = {
  histogram: ["_bucket", "_sum", "_count"],
  summary: ["_sum", "_count"],
};
const TYPES: readonly string[] = ["counter", "gauge", "histogram", "summary", "untyped"] satisfies MetricType[];

interface Growing {
  name: string;
  type: MetricType;
  help: string;
  readonly samples: Sample[];
}

/** Throws Error with the number of the line that is none of the format. Times of samples are left out. */
export function parseExposition(text: string): Family[] {
  const families = new Map<string, Growing>();
  const at = (name: string): Growing => {
    const found = families.get(name) ?? { name, type: "untyped", help: "", samples: [] };
    families.set(name, found);
    return found;
  };
  for (const [index, line] of text.split("\n").entries()) {
    const about = /^#\s+(HELP|TYPE)\s+(\S+)\s*(.*)$/.exec(line);
    if (about) {
      const [, what, name = "", rest = ""] = about;
      if (what === "HELP") at(name).help = rest.replaceAll("\\n", "\n").replaceAll("\\\\", "\\");
      else if (TYPES.includes(rest)) at(name).type = rest as MetricType;
      else throw new Error(`line ${index + 1}: "${rest}" is no type of a metric`);
    } else if (line.trim() !== "" && !line.startsWith("#")) {
      const { name, labels, value } = parseSample(line, index + 1);
      const family = familyOf(name, families);
      const sample = { labels, value };
      if (family) at(family.name).samples.push({ ...sample, ...(family.suffix && { suffix: family.suffix }) });
      else at(name).samples.push(sample);
    }
  }
  return [...families.values()];
}

function familyOf(name: string, families: ReadonlyMap<string, Growing>): { name: string; suffix: string } | undefined {
  if (families.has(name)) return { name, suffix: "" };
  for (const suffix of ["_bucket", "_sum", "_count"]) {
    const base = name.endsWith(suffix) ? name.slice(0, -suffix.length) : "";
    const type = families.get(base)?.type;
    if (type !== undefined && SUFFIXES[type]?.includes(suffix)) return { name: base, suffix };
  }
  return undefined;
}

const NAME = /^[a-zA-Z_:][\w:]*/;
const LABEL = /\s*([a-zA-Z_]\w*)\s*=\s*"((?:[^"\\]|\\.)*)"\s*(?:,|$)/y;

/** In one pass over the line, which may be a guest's, as long as that likes. "": it is none of the format. */
function parts(line: string): { name: string; inside: string; text: string } {
  const [name = ""] = NAME.exec(line) ?? [];
  const behind = line.slice(name.length).trim();
  const close = behind.startsWith("{") ? behind.lastIndexOf("}") : 0;
  const [text = "", time = "0", ...more] = behind
    .slice(close && close + 1)
    .trim()
    .split(/\s+/);
  const isSample = close >= 0 && more.length === 0 && /^-?\d+$/.test(time);
  return { name, inside: close > 0 ? behind.slice(1, close) : "", text: isSample ? text : "" };
}

function parseSample(line: string, number: number): { name: string; labels: Labels; value: number } {
  const { name, inside, text } = parts(line);
  const value = /^[+-]?Inf$/.test(text) ? (text.startsWith("-") ? -Infinity : Infinity) : Number(text);
  if (name === "" || text === "" || (Number.isNaN(value) && text !== "NaN"))
    throw new Error(`line ${number}: is no sample of a metric`);
  const labels: Record<string, string> = {};
  LABEL.lastIndex = 0;
  while (LABEL.lastIndex < inside.trimEnd().length) {
    const [, key, quoted = ""] = LABEL.exec(inside) ?? [];
    if (key === undefined) throw new Error(`line ${number}: its labels are not of the form name="value"`);
    labels[key] = quoted.replaceAll(/\\(.)/g, (_, letter: string) => (letter === "n" ? "\n" : letter));
  }
  return { name, labels, value };
}

/** Samples of families of the same name, one behind the other, with the first's words. */
export function mergeFamilies(all: Iterable<Family>): Family[] {
  const merged = new Map<string, Growing>();
  for (const family of all) {
    const known = merged.get(family.name);
    if (known) for (const sample of family.samples) known.samples.push(sample);
    else merged.set(family.name, { ...family, samples: [...family.samples] });
  }
  return [...merged.values()].sort((one, other) => (one.name < other.name ? -1 : 1));
}

export const withLabels = (family: Family, labels: Labels): Family => ({
  ...family,
  samples: family.samples.map((sample) => ({ ...sample, labels: { ...sample.labels, ...labels } })),
});
