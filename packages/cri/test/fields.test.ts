/** The table of request fields is whole, names tests and errors that exist, and is what the document says; every RPC is served. */
import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { fileURLToPath } from "node:url";
import { test } from "node:test";
import { cri } from "@berth/spec";
import type { CriContext } from "../src/context.ts";
import { imageHandlers, runtimeHandlers } from "../src/services.ts";
import { BELOW_REFUSED, FIELDS } from "./fields.ts";
import { DOCUMENT, fieldsDocument, requestFields } from "./fields-document.ts";

const checkout = fileURLToPath(new URL("../../..", import.meta.url));

test("every field of every request has a row, and every row a field", () => {
  const fields = requestFields().map(({ message, field }) => `${message}.${field}`);
  assert.deepEqual(
    fields.filter((field) => !Object.hasOwn(FIELDS, field)),
    [],
    "say in fields.ts what becomes of them",
  );
  assert.deepEqual(
    Object.keys(FIELDS).filter((field) => !fields.includes(field)),
    [],
    "no message has them",
  );
});

test("the tests that the rows name exist, and show the errors that they say", () => {
  const sources = new Map<string, string>();
  const wrong: string[] = [];
  for (const [field, row] of Object.entries(FIELDS)) {
    const named = "honoured" in row ? row.honoured : "refused" in row ? row.shown : undefined;
    if (named === undefined) continue;
    const split = named.indexOf(": ");
    const [path, title] = [named.slice(0, split), named.slice(split + 2)];
    if (!sources.has(path)) sources.set(path, readFileSync(`${checkout}/${path}`, "utf8"));
    const source = sources.get(path) ?? "";
    // Titles stand in the source as they are, between quotes of either kind or as a table's key.
    if (title === "" || !['"', "'", "`"].some((quote) => source.includes(`${quote}${title}`)))
      wrong.push(`${field}: ${path} has no test "${title}"`);
    if ("refused" in row && !source.replaceAll("\\", "").includes(row.refused))
      wrong.push(`${field}: ${path} shows no error "${row.refused}"`);
  }
  assert.deepEqual(wrong, []);
});

test("fields are left out of the table only below messages that a refused field leads to", () => {
  const leads = Object.entries(FIELDS).filter(([name, row]) => name.endsWith(".windows") && "refused" in row);
  assert.equal(leads.length, 3);
  assert.ok(BELOW_REFUSED.every((name) => name.startsWith("Windows")));
});

test("docs/cri-fields.md is what the table says", () => {
  assert.equal(readFileSync(DOCUMENT, "utf8"), fieldsDocument(), "node packages/cri/test/fields-document.ts");
});

test("every RPC of the CRI is served", () => {
  // Handlers are made without a look at what they will work with.
  const context = {} as CriContext;
  const served: Record<string, unknown> = {
    ...runtimeHandlers(context, undefined as never),
    ...imageHandlers(context),
  };
  const methods = [...cri.RuntimeService.methods, ...cri.ImageService.methods];
  assert.equal(methods.length, 41);
  assert.deepEqual(
    methods.filter(({ localName }) => served[localName] === undefined).map(({ name }) => name),
    [],
  );
});
