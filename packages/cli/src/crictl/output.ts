/** What crictl prints of the CRI's messages: JSON, YAML, templates. */
import type { DescField, DescMessage, Message } from "@bufbuild/protobuf";
import type { Context } from "./command.ts";
import { CrictlError, EMPTY_ID, wrap } from "./errors.ts";
import { goJson, type Json, sorted } from "./go/json.ts";
import { goYaml } from "./go/yaml.ts";

type Object = { readonly [key: string]: Json };

/** `go`: as encoding/json prints the generated Go structs (proto names, nothing that is zero); else as protojson with defaults. */
export function messageJson(desc: DescMessage, message: Message, go = false): Object {
  const values = message as unknown as Readonly<Record<string, unknown>>;
  const entries: [string, Json][] = [];
  for (const field of desc.fields) {
    const value = values[field.localName];
    if (value === undefined || (go && isZero(value))) continue;
    entries.push([go ? field.name : field.jsonName, fieldJson(field, value, go)]);
  }
  return Object.fromEntries(entries);
}

const isZero = (value: unknown): boolean =>
  value === 0 || value === 0n || value === "" || value === false || (Array.isArray(value) && value.length === 0);

function fieldJson(field: DescField, value: unknown, go: boolean): Json {
  if (field.fieldKind === "list") return (value as unknown[]).map((item) => single(field, item, go));
  if (field.fieldKind !== "map") return single(field, value, go);
  const entries = Object.entries(value as Record<string, unknown>);
  return sorted(Object.fromEntries(entries.map(([key, item]) => [key, single(field, item, go)])));
}

function single(field: DescField, value: unknown, go: boolean): Json {
  if (field.message) return messageJson(field.message, value as Message, go);
  if (field.enum && !go) return field.enum.value[value as number]?.name ?? (value as number);
  if (typeof value === "bigint") return go ? Number(value) : value.toString();
  if (value instanceof Uint8Array) return Buffer.from(value).toString("base64");
  return value as Json;
}

/** protojson keeps the order of the fields. */
export const printMessage = (context: Context, desc: DescMessage, message: Message, format: "json" | "yaml"): void =>
  format === "json"
    ? context.print(JSON.stringify(messageJson(desc, message), null, "  "))
    : context.print(goYaml(messageJson(desc, message)));

export interface StatusData {
  readonly status: Json;
  readonly more?: Object;
  readonly info: Readonly<Record<string, string>>;
}

/** A single one is not put into a list. */
export async function printStatuses(
  context: Context,
  statuses: readonly StatusData[],
  format: string,
  template: string,
): Promise<void> {
  if (statuses.length === 0) return;
  const results = statuses.map(({ status, more, info }) => ({ status, ...more, ...infoJson(info) }));
  const result = results.length === 1 ? (results[0] as Json) : results;
  if (format === "yaml") return context.print(goYaml(result));
  if (format === "json") return context.print(goJson(result));
  if (format !== "go-template") throw new CrictlError(`unsupported format: ${JSON.stringify(format)}`);
  const { execute } = await import("./go/template.ts");
  context.print(await wrap("execute template", () => execute(template, result)));
}

/** Values that look like objects are ones; others lose their quotes. */
function infoJson(info: Readonly<Record<string, string>>): Object {
  const entries = Object.entries(info).map(([key, text]): [string, Json] => {
    if (!text.startsWith("{")) return [key, text.replace(/^"+|"+$/g, "")];
    try {
      return [key, JSON.parse(text) as Json];
    } catch (error) {
      throw new CrictlError(`unmarshal status info JSON: ${(error as Error).message}`);
    }
  });
  return Object.fromEntries(entries);
}

/** fmt's %v of a map. */
export const goMap = (map: Readonly<Record<string, string>>): string =>
  `map[${Object.keys(map)
    .toSorted()
    .map((key) => `${key}:${map[key]}`)
    .join(" ")}]`;

/** "Labels:" and what is in it, as the verbose and table formats print maps that are not nil. */
export function printMap(context: Context, title: string, map: Readonly<Record<string, string>>): void {
  const keys = Object.keys(map).toSorted();
  if (keys.length === 0) return;
  context.print(`${title}:`);
  for (const key of keys) context.print(`\t${key} -> ${map[key]}`);
}

export interface Inspection<R> {
  fetch(id: string, verbose: boolean): Promise<R>;
  json(response: R): Json;
  info(response: R): Readonly<Record<string, string>>;
  table(response: R, verbose: boolean): void;
}

export async function inspect<R>(context: Context, ids: readonly string[], of: Inspection<R>): Promise<void> {
  const { flags } = context;
  const format = flags.string("output") || "json";
  const verbose = !flags.bool("quiet");
  const statuses: StatusData[] = [];
  if (ids.length === 0) throw new CrictlError(EMPTY_ID);
  for (const id of ids) {
    const response = await of.fetch(id, verbose);
    if (format === "table") of.table(response, verbose);
    else statuses.push({ status: of.json(response), info: of.info(response) });
  }
  await printStatuses(context, statuses, format, flags.string("template"));
}

/** Every field, those that are not there as null: what a Go struct becomes by way of a map. */
export function withNulls(desc: DescMessage, json: Object): Object {
  return Object.fromEntries(desc.fields.map(({ jsonName }) => [jsonName, json[jsonName] ?? null]));
}
