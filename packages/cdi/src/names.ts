/** `<vendor>/<class>=<name>`: the grammar of qualified device names (SPEC.md, "Kind" and "Device Name"). */

export interface QualifiedName {
  readonly vendor: string;
  readonly class: string;
  readonly name: string;
}

export function qualifiedName(vendor: string, deviceClass: string, name: string): string {
  return `${vendor}/${deviceClass}=${name}`;
}

export function isQualifiedName(text: string): boolean {
  return !("problem" in checkQualifiedName(text));
}

/** Throws Error saying which part is missing or against the grammar. */
export function parseQualifiedName(text: string): QualifiedName {
  const result = checkQualifiedName(text);
  if ("problem" in result) throw new Error(result.problem);
  return result;
}

function checkQualifiedName(text: string): QualifiedName | { readonly problem: string } {
  const { vendor, class: deviceClass, name } = splitDevice(text);
  const quoted = JSON.stringify(text);
  if (vendor === "") return { problem: `unqualified device ${quoted}, missing vendor` };
  if (deviceClass === "") return { problem: `unqualified device ${quoted}, missing class` };
  if (name === "") return { problem: `unqualified device ${quoted}, missing device name` };
  const problem = vendorProblem(vendor) ?? classProblem(deviceClass) ?? deviceNameProblem(name);
  return problem === undefined
    ? { vendor, class: deviceClass, name }
    : { problem: `invalid device ${quoted}: ${problem}` };
}

/** Without checking the parts. What is not qualified, as a path, is all name. */
export function splitDevice(text: string): QualifiedName {
  const unqualified = { vendor: "", class: "", name: text };
  const equals = text.indexOf("=");
  if (text.startsWith("/") || equals <= 0 || equals === text.length - 1) return unqualified;
  const { vendor, class: deviceClass } = splitKind(text.slice(0, equals));
  return vendor === "" ? unqualified : { vendor, class: deviceClass, name: text.slice(equals + 1) };
}

/** A kind without a vendor, or without a class, is all class. */
export function splitKind(kind: string): { readonly vendor: string; readonly class: string } {
  const slash = kind.indexOf("/");
  if (slash <= 0 || slash === kind.length - 1) return { vendor: "", class: kind };
  return { vendor: kind.slice(0, slash), class: kind.slice(slash + 1) };
}

/** Each says what is against the grammar; undefined: nothing. */
export function vendorProblem(vendor: string): string | undefined {
  return prefixed("invalid vendor. ", vendorOrClassProblem(vendor));
}

export function classProblem(deviceClass: string): string | undefined {
  return prefixed("invalid class. ", vendorOrClassProblem(deviceClass));
}

export function deviceNameProblem(name: string): string | undefined {
  if (name === "") return "invalid (empty) device name";
  if (!ALPHANUMERIC.test(first(name)))
    return `invalid device name ${JSON.stringify(name)}, should start with a letter or digit`;
  const bad = badCharacter(name, /[A-Za-z0-9_.:-]/);
  if (bad !== undefined) return `invalid character '${bad}' in device name ${JSON.stringify(name)}`;
  if (!ALPHANUMERIC.test(name.at(-1) ?? ""))
    return `invalid device name ${JSON.stringify(name)}, should end with a letter or digit`;
  return undefined;
}

const ALPHANUMERIC = /^[A-Za-z0-9]$/;

function vendorOrClassProblem(name: string): string | undefined {
  if (name === "") return "empty name";
  if (!/^[A-Za-z]$/.test(first(name))) return `${JSON.stringify(name)}, should start with letter`;
  const bad = badCharacter(name, /[A-Za-z0-9_.-]/);
  if (bad !== undefined) return `invalid character '${bad}' in name ${JSON.stringify(name)}`;
  if (!ALPHANUMERIC.test(name.at(-1) ?? "")) return `${JSON.stringify(name)}, should end with a letter or digit`;
  return undefined;
}

/** Of what is between the first and the last. */
function badCharacter(name: string, allowed: RegExp): string | undefined {
  return [...name].slice(1, -1).find((character) => !allowed.test(character));
}

const first = (name: string): string => [...name][0] ?? "";
const prefixed = (prefix: string, problem: string | undefined): string | undefined =>
  problem === undefined ? undefined : prefix + problem;
