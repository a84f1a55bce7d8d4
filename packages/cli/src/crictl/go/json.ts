/** encoding/json: maps with their keys in order, and what HTML could take amiss escaped. */

export type Json = null | boolean | number | string | readonly Json[] | { readonly [key: string]: Json };

const ESCAPED: Readonly<Record<string, string>> = {
  "<": "\\u003c",
  ">": "\\u003e",
  "&": "\\u0026",
  "\u2028": "\\u2028",
  "\u2029": "\\u2029",
};

/** `indent` "": on one line. */
export function goJson(value: Json, indent = "  "): string {
  return JSON.stringify(sorted(value), null, indent).replace(/[<>&\u2028\u2029]/g, (found) => ESCAPED[found] ?? found);
}

/** By code point, as Go compares strings. Made anew, so that keys that look like numbers are the only ones out of order. */
export function sorted(value: Json): Json {
  if (Array.isArray(value)) return value.map(sorted);
  if (value === null || typeof value !== "object") return value;
  const entries = Object.entries(value as { readonly [key: string]: Json });
  return Object.fromEntries(
    entries
      .sort(([a], [b]) => Buffer.compare(Buffer.from(a), Buffer.from(b)))
      .map(([key, item]) => [key, sorted(item)]),
  );
}
