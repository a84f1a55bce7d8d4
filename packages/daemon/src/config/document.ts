/** A configuration as its files say it: each value with the file and line it comes from, at the path that version 4 has for it. */
import { readFile, readdir } from "node:fs/promises";
import { dirname, join, matchesGlob, resolve } from "node:path";
import { parse, TomlError } from "smol-toml";
import type { Value } from "./keys.ts";
import { locateKeys, pathKey } from "./locate.ts";
import { toLatest, type Version } from "./migrate.ts";

export interface Entry {
  /** As in version 4. */
  readonly path: readonly string[];
  /** As the file has it. */
  readonly written: readonly string[];
  readonly value: Value;
  readonly file: string;
  readonly line: number;
}

export interface Document {
  /** Of the main file. */
  readonly version: Version;
  /** By pathKey; a later file's value has taken an earlier one's place. */
  readonly entries: ReadonlyMap<string, Entry>;
  /** The files that were read, in order. */
  readonly files: readonly string[];
}

/** The configuration cannot be used as it is; the message says where and why. */
export class ConfigError extends Error {
  override readonly name = "ConfigError";
}

export const EMPTY: Document = { version: 4, entries: new Map(), files: [] };

/** Tables of which a later file's entry replaces the whole of an earlier one's, as in containerd. */
const REPLACED_WHOLE = new Set(["stream_processors", "proxy_plugins"]);
/** Lists of the main table grow with each file; all others are replaced. */
const GROWING = new Set(["disabled_plugins", "required_plugins", "imports"]);

/** Reads `path` and what it imports, each file once. Throws ConfigError; ENOENT of `path` itself as it is. */
export async function readDocument(path: string): Promise<Document> {
  const entries = new Map<string, Entry>();
  const files: string[] = [];
  let version: Version | undefined;
  for (const pending = [path]; pending.length > 0;) {
    const file = pending.shift() as string;
    if (files.includes(file)) continue;
    const text = await readFile(file, "utf8");
    files.push(file);
    const part = parseDocument(text, file);
    version ??= part.version;
    if (part.version > version)
      throw new ConfigError(
        `${file}: version ${part.version} is higher than the ${version} of ${path}, which imports it`,
      );
    merge(entries, part.entries);
    for (const pattern of listOf(part.entries.find((entry) => pathKey(entry.path) === "imports")))
      pending.push(...(await expand(resolve(dirname(file), pattern))));
  }
  return { version: version ?? 4, entries, files };
}

const listOf = (entry: Entry | undefined): string[] =>
  Array.isArray(entry?.value) ? entry.value.filter((item): item is string => typeof item === "string") : [];

/** The files of a pattern in the order of their names; one without a wildcard names a file that must be there. */
async function expand(pattern: string): Promise<string[]> {
  if (!/[*?[]/.test(pattern)) return [pattern];
  const dir = dirname(pattern);
  if (/[*?[]/.test(dir))
    throw new ConfigError(`imports: "${pattern}" has a wildcard in a directory's name; only file names may`);
  const names = await readdir(dir).catch((error: NodeJS.ErrnoException) => {
    if (error.code === "ENOENT") return [];
    throw error;
  });
  return names
    .map((name) => join(dir, name))
    .filter((path) => matchesGlob(path, pattern))
    .sort();
}

function merge(into: Map<string, Entry>, entries: readonly Entry[]): void {
  const replaced = new Set(
    entries.flatMap(({ path: [section = "", name = ""] }) =>
      REPLACED_WHOLE.has(section) ? [`${section}\0${name}\0`] : [],
    ),
  );
  for (const key of into.keys()) if ([...replaced].some((prefix) => key.startsWith(prefix))) into.delete(key);
  for (const entry of entries) {
    const key = pathKey(entry.path);
    const before = into.get(key);
    const grows = GROWING.has(key) && Array.isArray(before?.value) && Array.isArray(entry.value);
    into.set(
      key,
      grows
        ? { ...entry, value: [...new Set([...(before.value as unknown[]), ...(entry.value as unknown[])])] }
        : entry,
    );
  }
}

interface Part {
  readonly version: Version;
  readonly entries: readonly Entry[];
}

export function parseDocument(text: string, file: string): Part {
  let root: Record<string, unknown>;
  try {
    root = parse(text);
  } catch (error) {
    if (!(error instanceof TomlError)) throw error;
    const [reason = ""] = error.message.split("\n");
    throw new ConfigError(`${file}:${error.line}: ${reason.replace("Invalid TOML document: ", "not TOML: ")}`, {
      cause: error,
    });
  }
  const lines = locateKeys(text);
  const version = versionOf(root["version"], file, lines);
  const entries: Entry[] = [];
  for (const [written, value] of leaves(root, [])) {
    if (written.length === 1 && written[0] === "version") continue;
    entries.push({ path: toLatest(written, version), written, value, file, line: lineOf(lines, written) });
  }
  return { version, entries };
}

function versionOf(value: unknown, file: string, lines: ReadonlyMap<string, number>): Version {
  if (value === undefined) return 1;
  if (value === 1 || value === 2 || value === 3 || value === 4) return value;
  throw new ConfigError(
    `${file}:${lines.get("version") ?? 1}: version: ${JSON.stringify(value)} is none of the versions of containerd's configuration, 1 to 4`,
  );
}

/** A table within a key's value, or a key of an array of tables, has its parent's line. */
function lineOf(lines: ReadonlyMap<string, number>, path: readonly string[]): number {
  for (let length = path.length; length > 0; length--) {
    const line = lines.get(pathKey(path.slice(0, length)));
    if (line !== undefined) return line;
  }
  return 1;
}

/** Every value that is no table, and every empty table: that it is there may say something. */
function* leaves(table: Record<string, unknown>, at: readonly string[]): Generator<[string[], Value]> {
  for (const [name, value] of Object.entries(table)) {
    const path = [...at, name];
    if (typeof value === "object" && value !== null && !Array.isArray(value) && !(value instanceof Date)) {
      const below = value as Record<string, unknown>;
      if (Object.keys(below).length === 0) yield [path, {}];
      else yield* leaves(below, path);
    } else yield [path, value instanceof Date ? value.toISOString() : (value as Value)];
  }
}
