/**
 * JSON Schema (draft-07, and 2020-12 where they agree), as far as schemas of CDI go: types, fields, items, ranges, patterns,
 * combinations and references within one file or to files beside it. A keyword that is not known here is refused by name: a
 * check that silently does not happen is worse than none.
 */
import { readFileSync } from "node:fs";
import { dirname, resolve } from "node:path";

type Json = null | boolean | number | string | readonly Json[] | { readonly [key: string]: Json };
type Schema = boolean | { readonly [key: string]: Json };
interface Scope {
  readonly file: string;
  readonly root: Schema;
}
type Check = (
  argument: Json,
  value: Json,
  at: string,
  scope: Scope,
  schema: { readonly [key: string]: Json },
) => string[];

/** Says nothing about values. */
const ANNOTATIONS = new Set([
  "$schema",
  "$id",
  "id",
  "$comment",
  "title",
  "description",
  "default",
  "examples",
  "deprecated",
  "definitions",
  "$defs",
  "format",
  "readOnly",
  "writeOnly",
  // What the published CDI schema says by mistake for $ref.
  "ref",
]);

/** A check of whole documents: every violation, as "at '/devices/0/name': ...". Throws Error when the schema cannot be used. */
export function loadSchema(file: string): (value: unknown) => string[] {
  const scope = readScope(resolve(file));
  return (value) => validate(scope.root, JSON.parse(JSON.stringify(value)) as Json, "", scope);
}

function readScope(file: string): Scope {
  try {
    return { file, root: JSON.parse(readFileSync(file, "utf8")) as Schema };
  } catch (error) {
    throw new Error(`JSON schema ${file}: ${(error as Error).message}`, { cause: error });
  }
}

function validate(schema: Schema, value: Json, at: string, scope: Scope): string[] {
  if (typeof schema === "boolean") return schema ? [] : [`at '${at}': nothing is allowed here`];
  const { $ref: reference } = schema;
  if (typeof reference === "string") {
    const target = follow(reference, scope);
    return validate(target.schema, value, at, target.scope);
  }
  return Object.entries(schema).flatMap(([keyword, argument]) => {
    if (ANNOTATIONS.has(keyword)) return [];
    const check = CHECKS[keyword];
    if (!check) throw new Error(`JSON schema ${scope.file}: the keyword "${keyword}" is not supported`);
    return check(argument, value, at, scope, schema);
  });
}

function follow(reference: string, scope: Scope): { readonly schema: Schema; readonly scope: Scope } {
  const [file = "", pointer = ""] = reference.split("#", 2);
  const target = file === "" ? scope : readScope(resolve(dirname(scope.file), file));
  let schema: Json | undefined = target.root;
  for (const step of pointer.split("/").filter((part) => part !== "")) {
    const key = decodeURIComponent(step).replaceAll("~1", "/").replaceAll("~0", "~");
    schema = (schema as { readonly [key: string]: Json } | undefined)?.[key];
  }
  if (schema === undefined) throw new Error(`JSON schema ${scope.file}: "${reference}" leads nowhere`);
  return { schema: schema as Schema, scope: target };
}

const CHECKS: Readonly<Record<string, Check>> = {
  type: (argument, value, at) => {
    const wanted = [argument].flat() as string[];
    const is = typeOf(value);
    const fits = wanted.includes(is) || (is === "integer" && wanted.includes("number"));
    return fits ? [] : [`at '${at}': got ${is}, want ${wanted.join(" or ")}`];
  },
  enum: (argument, value, at) =>
    (argument as Json[]).some((one) => same(one, value))
      ? []
      : [`at '${at}': value must be one of ${JSON.stringify(argument)}`],
  const: (argument, value, at) =>
    same(argument, value) ? [] : [`at '${at}': value must be ${JSON.stringify(argument)}`],
  minimum: (argument, value, at) =>
    number(value, (n) => n >= Number(argument), `at '${at}': less than ${JSON.stringify(argument)}`),
  maximum: (argument, value, at) =>
    number(value, (n) => n <= Number(argument), `at '${at}': more than ${JSON.stringify(argument)}`),
  minLength: (argument, value, at) => text(value, (t) => t.length >= Number(argument), `at '${at}': too short`),
  maxLength: (argument, value, at) => text(value, (t) => t.length <= Number(argument), `at '${at}': too long`),
  pattern: (argument, value, at) =>
    text(
      value,
      (t) => new RegExp(argument as string, "u").test(t),
      `at '${at}': does not match ${JSON.stringify(argument)}`,
    ),
  minItems: (argument, value, at) =>
    list(value, (items) => items.length >= Number(argument), `at '${at}': too few items`),
  maxItems: (argument, value, at) =>
    list(value, (items) => items.length <= Number(argument), `at '${at}': too many items`),
  uniqueItems: (argument, value, at) =>
    list(
      value,
      (items) => argument !== true || new Set(items.map((item) => JSON.stringify(item))).size === items.length,
      `at '${at}': an item is repeated`,
    ),
  items: (argument, value, at, scope) =>
    Array.isArray(value)
      ? value.flatMap((item, index) =>
          validate(
            (Array.isArray(argument) ? (argument[index] ?? true) : argument) as Schema,
            item as Json,
            `${at}/${index}`,
            scope,
          ),
        )
      : [],
  required: (argument, value, at) => {
    const fields = fieldsOf(value);
    const missing = fields ? (argument as string[]).filter((name) => !Object.hasOwn(fields, name)) : [];
    return missing.length === 0 ? [] : [`at '${at}': missing ${missing.map((name) => `'${name}'`).join(", ")}`];
  },
  properties: (argument, value, at, scope) =>
    Object.entries(fieldsOf(value) ?? {}).flatMap(([name, field]) => {
      const schema = fieldsOf(argument)?.[name];
      return schema === undefined ? [] : validate(schema as Schema, field, `${at}/${name}`, scope);
    }),
  patternProperties: (argument, value, at, scope) =>
    Object.entries(fieldsOf(value) ?? {}).flatMap(([name, field]) =>
      Object.entries(fieldsOf(argument) ?? {}).flatMap(([pattern, schema]) =>
        new RegExp(pattern, "u").test(name) ? validate(schema as Schema, field, `${at}/${name}`, scope) : [],
      ),
    ),
  additionalProperties: (argument, value, at, scope, schema) => {
    const named = fieldsOf(schema["properties"] ?? {}) ?? {};
    const patterns = Object.keys(fieldsOf(schema["patternProperties"] ?? {}) ?? {}).map((one) => new RegExp(one, "u"));
    return Object.entries(fieldsOf(value) ?? {}).flatMap(([name, field]) => {
      if (Object.hasOwn(named, name) || patterns.some((pattern) => pattern.test(name))) return [];
      return argument === false
        ? [`at '${at}': additional properties '${name}' not allowed`]
        : validate(argument as Schema, field, `${at}/${name}`, scope);
    });
  },
  allOf: (argument, value, at, scope) => (argument as Schema[]).flatMap((one) => validate(one, value, at, scope)),
  anyOf: (argument, value, at, scope) => {
    const results = (argument as Schema[]).map((one) => validate(one, value, at, scope));
    return results.some((found) => found.length === 0) ? [] : results.flat();
  },
  oneOf: (argument, value, at, scope) => {
    const fitting = (argument as Schema[]).filter((one) => validate(one, value, at, scope).length === 0).length;
    return fitting === 1 ? [] : [`at '${at}': fits ${fitting} of the alternatives, not one`];
  },
  not: (argument, value, at, scope) =>
    validate(argument as Schema, value, at, scope).length > 0 ? [] : [`at '${at}': is what it must not be`],
};

function typeOf(value: Json): string {
  if (value === null) return "null";
  if (Array.isArray(value)) return "array";
  if (typeof value === "number") return Number.isInteger(value) ? "integer" : "number";
  return typeof value;
}

function fieldsOf(value: Json): { readonly [key: string]: Json } | undefined {
  return typeof value === "object" && value !== null && !Array.isArray(value)
    ? (value as { readonly [key: string]: Json })
    : undefined;
}

const same = (a: Json, b: Json): boolean => JSON.stringify(a) === JSON.stringify(b);
const number = (value: Json, fits: (n: number) => boolean, otherwise: string): string[] =>
  typeof value !== "number" || fits(value) ? [] : [otherwise];
const text = (value: Json, fits: (t: string) => boolean, otherwise: string): string[] =>
  typeof value !== "string" || fits(value) ? [] : [otherwise];
const list = (value: Json, fits: (items: readonly unknown[]) => boolean, otherwise: string): string[] =>
  !Array.isArray(value) || fits(value) ? [] : [otherwise];
