/** `-e` and `--env-file`. */
import { readFileSync } from "node:fs";
import { Failure } from "../failure.ts";

type Environment = Readonly<Record<string, string | undefined>>;

/** Files first, then -e, so that what is typed wins. Throws Failure for a line or file that is wrong. */
export function environment(
  options: { readonly env: readonly string[]; readonly envFile: readonly string[] },
  own: Environment,
): Map<string, string> {
  const variables = new Map<string, string>();
  for (const path of options.envFile) {
    for (const [line, text] of readLines(path)) set(variables, text, own, `--env-file ${path}:${line}`);
  }
  for (const text of options.env) set(variables, text, own, "-e");
  return variables;
}

/** "K=V"; "K" alone takes this process's value, and is passed over where it has none, as docker does. */
function set(variables: Map<string, string>, text: string, own: Environment, where: string): void {
  const equals = text.indexOf("=");
  const key = equals < 0 ? text : text.slice(0, equals);
  if (key === "" || /\s/.test(key))
    throw new Failure(`${where}: "${text}" is not a variable: use NAME=value, or NAME to pass this shell's value on`);
  const value = equals < 0 ? own[key] : text.slice(equals + 1);
  if (value !== undefined) variables.set(key, value);
}

function readLines(path: string): [number, string][] {
  let text: string;
  try {
    text = readFileSync(path, "utf8");
  } catch (error) {
    throw new Failure(`--env-file: cannot read ${path}: ${(error as Error).message}`, undefined, { cause: error });
  }
  return text
    .replace(/^\ufeff/, "")
    .split(/\r?\n/)
    .map((line, index): [number, string] => [index + 1, line.trimStart()])
    .filter(([, line]) => line !== "" && !line.startsWith("#"));
}

/** "key=value" pairs of --label, --annotation and --sysctl; a key alone has the value "". */
export function keyValues(pairs: readonly string[], option: string): Record<string, string> {
  return Object.fromEntries(
    pairs.map((pair) => {
      const equals = pair.indexOf("=");
      if (equals === 0 || pair === "") throw new Failure(`${option}: "${pair}" has no key: use key=value`);
      return equals < 0 ? [pair, ""] : [pair.slice(0, equals), pair.slice(equals + 1)];
    }),
  );
}
