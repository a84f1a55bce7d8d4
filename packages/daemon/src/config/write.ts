/** Configurations as TOML, in the shape of containerd's own `config default`: what the node's scripts edit with sed. */
import type { Document } from "./document.ts";
import { KEYS, type Value } from "./keys.ts";
import { pathKey } from "./locate.ts";
import { fromLatest } from "./migrate.ts";

export type Written = 2 | 3 | 4;
interface Table {
  [name: string]: Table | Value;
}

/** Keys that containerd 1.x does not know. */
const SINCE_3 = new Set(["bin_dirs", "cgroup_writable", "use_internal_loopback"]);

/** What a file must say for berthd to do what it does without one. */
export function defaults(version: Written): string {
  return render(defaultValues(), version);
}

/** What is in force: the defaults, and over them what the files say. */
export function dump(document: Document, version: Written): string {
  return render([...defaultValues(), ...said(document)], version);
}

/** What the files say, and nothing else. */
export function migrate(document: Document, version: Written): string {
  return render(said(document), version);
}

type Item = readonly [path: readonly string[], value: Value];

const defaultValues = (): Item[] =>
  KEYS.flatMap((key): Item[] =>
    key.default === undefined || pathKey(key.path) === "version" ? [] : [[key.path, key.default]],
  );
/** Imports are part of what is written, so they are not to be read again. */
const said = (document: Document): Item[] =>
  [...document.entries.values()]
    .filter(({ path }) => pathKey(path) !== "imports")
    .map(({ path, value }) => [path, value]);

function render(items: readonly Item[], version: Written): string {
  const root: Table = { version };
  for (const [path, value] of items) {
    const at = fromLatest(path, version);
    if (at === undefined || (version === 2 && SINCE_3.has(at.at(-1) ?? ""))) continue;
    put(root, at, value);
  }
  return `${[...lines(root, [], version === 2 ? '"' : "'")].join("\n")}\n`;
}

function put(root: Table, path: readonly string[], value: Value): void {
  let table = root;
  for (const part of path.slice(0, -1)) {
    const below = table[part];
    table = isTable(below) ? below : (table[part] = {});
  }
  const last = path.at(-1) ?? "";
  if (!(isTable(value) && isTable(table[last]))) table[last] = value;
}

const isTable = (value: unknown): value is Table =>
  typeof value === "object" && value !== null && !Array.isArray(value);

function* lines(table: Table, path: readonly string[], quote: string): Generator<string> {
  const indent = "  ".repeat(Math.max(0, path.length - 1));
  if (path.length > 0) yield `${indent}[${path.map((part) => keyText(part, quote)).join(".")}]`;
  const body = "  ".repeat(path.length);
  const entries = Object.entries(table);
  for (const [name, value] of entries)
    if (!isTable(value)) yield `${body}${keyText(name, quote)} = ${valueText(value, quote)}`;
  for (const [name, value] of entries) {
    if (!isTable(value)) continue;
    yield "";
    yield* lines(value, [...path, name], quote);
  }
}

const keyText = (key: string, quote: string): string => (/^[A-Za-z0-9_-]+$/.test(key) ? key : stringText(key, quote));

/** A literal string has no escapes. */
const stringText = (text: string, quote: string): string =>
  quote === "'" && !/['\p{Cc}]/u.test(text) ? `'${text}'` : JSON.stringify(text);

function valueText(value: unknown, quote: string): string {
  if (typeof value === "string") return stringText(value, quote);
  if (Array.isArray(value)) return `[${value.map((item) => valueText(item, quote)).join(", ")}]`;
  if (isTable(value))
    return `{ ${Object.entries(value)
      .map(([name, item]) => `${keyText(name, quote)} = ${valueText(item, quote)}`)
      .join(", ")} }`;
  return String(value);
}
