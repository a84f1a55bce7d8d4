/** The file of the toolkit's configuration as nvidia-ctk writes it: by table, values that were never set behind a #. */
import { stringify } from "smol-toml";
import { FIELDS, type Key, type ToolkitConfig } from "./config.ts";

/** `defaults`: also of keys that the configuration does not set. */
export function formatConfig(config: ToolkitConfig, defaults: boolean): string {
  const keys = (Object.keys(FIELDS) as Key[]).filter((key) => config.isSet(key) || isShown(key, defaults));
  const lines = [
    ...keys.map((key) => [key, line(config, key, split(key)[1])] as const),
    ...[...config.unknown].map(([key, value]) => [key, stringify({ [split(key)[1]]: value }).trim()] as const),
  ].sort(([a], [b]) => (a < b ? -1 : 1));
  const tables = new Map<string, string[]>([["", []]]);
  for (const [key, text] of lines) {
    const [table] = split(key);
    for (const parent of parents(table)) if (!tables.has(parent)) tables.set(parent, []);
    tables.get(table)?.push(text);
  }
  return [...tables]
    .sort(([a], [b]) => byTable(a, b))
    .map(([table, texts]) => [...(table === "" ? [] : [`[${table}]`]), ...texts].map((text) => `${text}\n`).join(""))
    .join("\n");
}

function isShown(key: Key, defaults: boolean): boolean {
  const field = FIELDS[key];
  return "example" in field || (defaults && !("optional" in field));
}

/** A value that was never set is shown by its example, which changes nothing. */
function line(config: ToolkitConfig, key: Key, name: string): string {
  const field = FIELDS[key];
  if ("example" in field && !config.isSet(key)) return `#${name} = ${literal(field.example)}`;
  const value = key === "nvidia-container-cli.ldconfig" ? config.ldconfig() : config.get(key);
  return `${name} = ${literal(value)}`;
}

function literal(value: boolean | string | readonly string[]): string {
  return typeof value === "object"
    ? `[${value.map((item) => JSON.stringify(item)).join(", ")}]`
    : JSON.stringify(value);
}

function split(key: string): [table: string, name: string] {
  const dot = key.lastIndexOf(".");
  return dot < 0 ? ["", key] : [key.slice(0, dot), key.slice(dot + 1)];
}

function parents(table: string): string[] {
  const parts = table.split(".");
  return parts.map((_, index) => parts.slice(0, index + 1).join("."));
}

/** A table comes before those inside it. */
function byTable(a: string, b: string): number {
  const [left, right] = [a.split("."), b.split(".")];
  const differs = left.findIndex((part, index) => part !== right[index]);
  if (differs < 0) return left.length - right.length;
  return (left[differs] ?? "") < (right[differs] ?? "") ? -1 : 1;
}
