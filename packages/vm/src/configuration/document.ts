/** configuration.toml as a document: read with its drop-ins, merged, and checked against the tables of keys. */
import { readdir, readFile } from "node:fs/promises";
import { dirname, join } from "node:path";
import { VmError } from "../errors.ts";
import { type HypervisorName, keysOf } from "./driver-keys.ts";
import type { Key, KeyType } from "./key.ts";
import { nearest } from "@berth/spec/nearest";
import { FACTORY_KEYS, OTHER_TABLES } from "./other-keys.ts";

export type Table = { [key: string]: unknown };

export const HYPERVISORS = ["qemu", "clh", "cloud-hypervisor", "firecracker", "stratovirt"] as const;
/** Cloud Hypervisor's two names in Kata's files. */
export const canonical = (name: string): HypervisorName =>
  name === "cloud-hypervisor" ? "clh" : (name as HypervisorName);
/** Of Kata's, which there is no driver for. */
const OTHER_HYPERVISORS = ["acrn", "dragonball", "remote", "openvmm", "virtframework"];

/** The file with what config.d beside it adds, in the order of their names. Throws VmError. */
export async function readDocument(path: string): Promise<Table> {
  const document = await readToml(path);
  for (const dropIn of await dropIns(join(dirname(path), "config.d"))) merge(document, await readToml(dropIn));
  return document;
}

async function readToml(path: string): Promise<Table> {
  const { parse } = await import("smol-toml");
  let text: string;
  try {
    text = await readFile(path, "utf8");
  } catch (error) {
    throw new VmError("InvalidConfiguration", `${path}: ${(error as Error).message}`, { cause: error });
  }
  try {
    return parse(text);
  } catch (error) {
    throw new VmError("InvalidConfiguration", `${path}: ${(error as Error).message.split("\n")[0]}`, { cause: error });
  }
}

async function dropIns(directory: string): Promise<string[]> {
  try {
    const entries = await readdir(directory, { withFileTypes: true });
    return entries
      .filter((entry) => !entry.isDirectory())
      .map((entry) => join(directory, entry.name))
      .sort();
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === "ENOENT") return [];
    throw error;
  }
}

/** Tables are merged, all else is replaced. */
export function merge(into: Table, from: Table): void {
  for (const [key, value] of Object.entries(from)) {
    const old = into[key];
    if (isTable(old) && isTable(value)) merge(old, value);
    else into[key] = value;
  }
}

export const isTable = (value: unknown): value is Table =>
  typeof value === "object" && value !== null && !Array.isArray(value) && !(value instanceof Date);

export interface Checked {
  readonly errors: readonly string[];
  readonly warnings: readonly string[];
}

/** Every key is known, of its type, and not refused. */
export function checkDocument(document: Table): Checked {
  const errors: string[] = [];
  const warnings: string[] = [];
  const tables = Object.keys(OTHER_TABLES).map((name) => name.split(".")[0] ?? "");
  for (const [name, value] of Object.entries(document)) {
    if (name === "hypervisor") checkHypervisors(value, errors, warnings);
    else if (!tables.includes(name)) errors.push(unknown("table", name, ["hypervisor", ...tables]));
    else if (!isTable(value)) errors.push(`${name}: must be a table`);
    else if (OTHER_TABLES[name]) checkTable(`[${name}]`, value, OTHER_TABLES[name], errors, warnings);
    else
      for (const [second, table] of Object.entries(value)) {
        if (isTable(table)) checkSecond(name, second, table, errors, warnings);
        else errors.push(`[${name}] ${second}: must be a table, as [${name}.kata]`);
      }
  }
  return { errors, warnings };
}

function checkSecond(name: string, second: string, table: Table, errors: string[], warnings: string[]): void {
  const keys = OTHER_TABLES[`${name}.*`] ?? {};
  const below = OTHER_TABLES[`${name}.*.mem_agent`];
  const { mem_agent: agent, ...own } = table;
  if (below && isTable(agent)) checkTable(`[${name}.${second}.mem_agent]`, agent, below, errors, warnings);
  checkTable(`[${name}.${second}]`, below ? own : table, keys, errors, warnings);
}

function checkHypervisors(value: unknown, errors: string[], warnings: string[]): void {
  if (!isTable(value)) return void errors.push("hypervisor: must be a table, as [hypervisor.qemu]");
  for (const [name, table] of Object.entries(value)) {
    if (OTHER_HYPERVISORS.includes(name)) {
      errors.push(`[hypervisor.${name}]: there is no driver for it; use one of ${HYPERVISORS.join(", ")}`);
      continue;
    }
    if (!(HYPERVISORS as readonly string[]).includes(name)) {
      errors.push(unknown("hypervisor", name, HYPERVISORS));
      continue;
    }
    if (!isTable(table)) {
      errors.push(`[hypervisor.${name}]: must be a table`);
      continue;
    }
    const { factory, ...own } = table;
    if (isTable(factory)) checkTable(`[hypervisor.${name}.factory]`, factory, FACTORY_KEYS, errors, warnings);
    checkTable(`[hypervisor.${name}]`, own, keysOf(canonical(name)), errors, warnings);
  }
}

function checkTable(
  at: string,
  table: Table,
  keys: Readonly<Record<string, Key>>,
  errors: string[],
  warnings: string[],
): void {
  for (const [name, value] of Object.entries(table)) {
    const key = keys[name];
    if (!key) errors.push(`${at} ${unknown("key", name, Object.keys(keys))}`);
    else if (!hasType(value, key.type)) errors.push(`${at} ${name}: must be ${WORDS[key.type]}`);
    else if (key.use === "refused" && !isOff(value, key)) errors.push(`${at} ${name}: ${key.note}`);
    else if (key.use === "moot" && !isOff(value, key)) warnings.push(`${at} ${name} changes nothing: ${key.note}`);
  }
}

const WORDS: Readonly<Record<KeyType, string>> = {
  string: "a text",
  integer: "a whole number",
  number: "a number",
  boolean: "true or false",
  strings: "a list of texts",
  list: "a list",
};

function hasType(value: unknown, type: KeyType): boolean {
  switch (type) {
    case "string":
    case "boolean":
    case "number":
      return typeof value === type;
    case "integer":
      return Number.isInteger(value);
    case "list":
      return Array.isArray(value);
    case "strings":
      return Array.isArray(value) && value.every((each) => typeof each === "string");
  }
}

/** What asks for nothing: the default, or nothing at all. */
const isOff = (value: unknown, { fallback }: Key): boolean =>
  value === "" || value === false || value === 0 || (Array.isArray(value) && value.length === 0) || value === fallback;

function unknown(what: string, name: string, known: Iterable<string>): string {
  const guess = nearest(name, known);
  return `${name}: no such ${what}${guess === undefined ? "" : `; did you mean ${guess}?`}`;
}
