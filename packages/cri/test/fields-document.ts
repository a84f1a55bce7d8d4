/** docs/cri-fields.md, from the table of fields: `node packages/cri/test/fields-document.ts` writes it. */
import { writeFileSync } from "node:fs";
import { fileURLToPath } from "node:url";
import type { DescMessage } from "@bufbuild/protobuf";
import { cri } from "@berth/spec";
import { BELOW_REFUSED, FIELDS, type Row } from "./fields.ts";

export const DOCUMENT = fileURLToPath(new URL("../../../docs/cri-fields.md", import.meta.url));
const SERVICES = [cri.RuntimeService, cri.ImageService] as const;

/** Message and field of everything that a request can hold, in the services' order; what a refused message leads to is left out. */
export function requestFields(): { message: string; field: string; calls: Set<string> }[] {
  const found = new Map<string, { message: string; field: string; calls: Set<string> }>();
  const walk = (message: DescMessage, call: string, seen: ReadonlySet<string>): void => {
    if (seen.has(message.name) || BELOW_REFUSED.includes(message.name)) return;
    for (const field of message.fields) {
      const key = `${message.name}.${field.name}`;
      const entry = found.get(key) ?? { message: message.name, field: field.name, calls: new Set<string>() };
      entry.calls.add(call);
      found.set(key, entry);
      if (field.message) walk(field.message, call, new Set([...seen, message.name]));
    }
  };
  for (const service of SERVICES)
    for (const method of service.methods) walk(method.input, method.name, new Set<string>());
  return [...found.values()];
}

function cells(row: Row | undefined): string {
  if (row === undefined) return "**missing** | |";
  if ("honoured" in row) return `honoured | ${row.honoured.replace(": ", ": “")}…” |`;
  if ("refused" in row) return `refused | “${row.refused}” (${row.shown.replace(": ", ": “")}…”) |`;
  return `no instruction | ${row.none} |`;
}

export function fieldsDocument(): string {
  const lines = [
    "# The CRI's request fields",
    "",
    "Made by `node packages/cri/test/fields-document.ts` from `packages/cri/test/fields.ts`, which a test holds against the message",
    "descriptors: a field without a row fails it. Fields below the Windows messages are refused with the field that leads to them.",
    "",
    "| message | field | | the test that shows it, the error, or why it is no instruction to a runtime |",
    "|---|---|---|---|",
  ];
  for (const { message, field } of requestFields())
    lines.push(`| ${message} | ${field} | ${cells(FIELDS[`${message}.${field}`])}`);
  return `${lines.join("\n")}\n`;
}

if (import.meta.main) writeFileSync(DOCUMENT, fieldsDocument());
