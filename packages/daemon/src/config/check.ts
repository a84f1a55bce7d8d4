/** What is wrong with a configuration, or not as its writer may think: by file and line. */
import { parseDuration } from "@berth/spec/oci";
import { type Document, type Entry } from "./document.ts";
import { findKey, isTable, type Key, knownAfter, QUIET_PLUGINS, STREAMING } from "./keys.ts";
import { pathKey } from "./locate.ts";
import { toLatest } from "./migrate.ts";
import { nearest } from "@berth/spec/nearest";

export interface Problem {
  /** error: berthd does not start with it. warning: it asks for what it does not get. note: it has no effect, and no pod can tell. */
  readonly severity: "error" | "warning" | "note";
  readonly file: string;
  readonly line: number;
  readonly message: string;
}

export function checkDocument(document: Document): Problem[] {
  const problems: Problem[] = [];
  const seen = new Set<string>();
  for (const entry of document.entries.values()) {
    const found = checkEntry(entry);
    // A table that is not known is named once, not once a key.
    if (!found || seen.has(`${found.file}\0${found.about}`)) continue;
    seen.add(`${found.file}\0${found.about}`);
    const { severity, file, line, message } = found;
    problems.push({ severity, file, line, message });
  }
  return problems.sort((a, b) => a.file.localeCompare(b.file) || a.line - b.line);
}

export const describe = ({ severity, file, line, message }: Problem): string =>
  `${file}:${line}: ${severity}: ${message}`;

/** Tables in which every key means as much as the next, and which containerd's default file fills. */
const OF_ONE_KIND = new Set(["timeouts", "stream_processors"]);

type Found = Problem & { readonly about: string };

function checkEntry(entry: Entry): Found | undefined {
  const { path, written, value, file, line } = entry;
  const say = (severity: Problem["severity"], message: string, about = pathKey(path)): Found => ({
    severity,
    file,
    line,
    message,
    about,
  });
  if (path[0] === "plugins" && QUIET_PLUGINS.has(path[1] ?? ""))
    return say("note", `${dotted(written.slice(0, 2))}: berth has no such plugin`, pathKey(path.slice(0, 2)));
  const key = findKey(path);
  if (!key) return isEmptyTable(value) && isTable(path) ? undefined : unknown(entry, say);
  const wrong = wrongType(key, value);
  if (wrong !== undefined) return say("error", `${dotted(written)}: ${wrong}`);
  if (key.support === "works" || same(value, key.default)) return undefined;
  // containerd's default file has every key; what it leaves empty asks for nothing.
  if (key.support === "none" && isNothing(value)) return undefined;
  if (key.support === "none") {
    const [table = ""] = path;
    const about = OF_ONE_KIND.has(table) ? [table] : path;
    return say("note", `${dotted(written.slice(0, about.length))}: has no effect: ${key.why}`, pathKey(about));
  }
  if (key.harmless?.some((harmless) => same(value, harmless))) return undefined;
  return say("warning", `${dotted(written)} = ${JSON.stringify(value)} is not supported: ${key.why}`);
}

function unknown(
  { path, written }: Entry,
  say: (severity: Problem["severity"], message: string, about: string) => Found,
): Found {
  const length = knownLength(path);
  const about = pathKey(path.slice(0, length + 1));
  // As many parts of what the file says as of what was looked for, counted from the end.
  const shown = dotted(written.slice(0, Math.max(1, written.length - (path.length - length - 1))));
  const elsewhere = toLatest(path, 2);
  if (path[1] === STREAMING && findKey(elsewhere))
    return say(
      "warning",
      `${shown}: version 2's key, which later versions do not look at; it is now ${dotted(elsewhere)}`,
      about,
    );
  const guess = nearest(path[length] ?? "", knownAfter(path.slice(0, length)));
  return say(
    "warning",
    `${shown}: unknown key${guess === undefined ? "" : `; did you mean ${dotted([guess])}?`}`,
    about,
  );
}

/** How many parts of a path lead to tables that can hold known keys. */
function knownLength(path: readonly string[]): number {
  let length = 0;
  while (length < path.length - 1 && isTable(path.slice(0, length + 1))) length++;
  return length;
}

const isNothing = (value: unknown): boolean =>
  value === "" || value === 0 || value === false || (Array.isArray(value) && value.length === 0);

const isEmptyTable = (value: unknown): boolean =>
  typeof value === "object" && value !== null && !Array.isArray(value) && Object.keys(value).length === 0;

/** As TOML writes a path. */
export const dotted = (path: readonly string[]): string =>
  path.map((part) => (/^[A-Za-z0-9_-]+$/.test(part) ? part : `'${part}'`)).join(".");

const same = (a: unknown, b: unknown): boolean => JSON.stringify(a) === JSON.stringify(b);

function wrongType({ kind }: Key, value: unknown): string | undefined {
  switch (kind) {
    case "string":
      return typeof value === "string" ? undefined : wanted("a string in quotes", value);
    case "bool":
      return typeof value === "boolean" ? undefined : wanted("true or false, without quotes", value);
    case "int":
      return Number.isInteger(value) ? undefined : wanted("a whole number, without quotes", value);
    case "number":
      return typeof value === "number" ? undefined : wanted("a number, without quotes", value);
    case "duration":
      if (typeof value === "string" && (value === "" || parseDuration(value) !== undefined)) return undefined;
      return wanted('a duration such as "10s" or "1h30m"', value);
    case "strings":
      return isStrings(value) ? undefined : wanted('a list of strings, such as ["a", "b"]', value);
    case "any":
      return undefined;
  }
}

const isStrings = (value: unknown): boolean => Array.isArray(value) && value.every((item) => typeof item === "string");
const wanted = (what: string, value: unknown): string => `must be ${what}, not ${JSON.stringify(value)}`;
