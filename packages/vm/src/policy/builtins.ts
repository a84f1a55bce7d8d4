/** Functions that policies call (openpolicyagent.org/docs/policy-reference). One that fails has no value, as where Kata's agent evaluates it. */
import { createContext, type Context, Script } from "node:vm";
import { RegoSet, type Value } from "./syntax.ts";

type Builtin = (...args: Value[]) => Value | undefined;

const isText = (value: Value | undefined): value is string => typeof value === "string";
const isArray = (value: Value | undefined): value is readonly Value[] => Array.isArray(value);
const isObject = (value: Value | undefined): value is Readonly<Record<string, Value>> =>
  typeof value === "object" && value !== null && !Array.isArray(value) && !(value instanceof RegoSet);

const texts =
  (work: (...args: string[]) => Value | undefined): Builtin =>
  (...args) =>
    args.every(isText) ? work(...args) : undefined;

export const BUILTINS: Readonly<Record<string, Builtin>> = {
  print: () => true,
  count: (of) => {
    if (isText(of)) return [...of].length;
    if (isArray(of)) return of.length;
    if (of instanceof RegoSet) return of.size;
    return isObject(of) ? Object.keys(of).length : undefined;
  },
  concat: (separator, parts) => {
    const all = parts instanceof RegoSet ? parts.values : parts;
    return isText(separator) && isArray(all) && all.every(isText) ? all.join(separator) : undefined;
  },
  contains: texts((of = "", part = "") => of.includes(part)),
  startswith: texts((of = "", part = "") => of.startsWith(part)),
  endswith: texts((of = "", part = "") => of.endsWith(part)),
  lower: texts((of = "") => of.toLowerCase()),
  upper: texts((of = "") => of.toUpperCase()),
  replace: texts((of = "", old = "", by = "") => of.replaceAll(old, () => by)),
  split: texts((of = "", by = "") => of.split(by)),
  trim_prefix: texts((of = "", part = "") => (of.startsWith(part) ? of.slice(part.length) : of)),
  trim_suffix: texts((of = "", part = "") => (of.endsWith(part) ? of.slice(0, of.length - part.length) : of)),
  trim_space: texts((of = "") => of.trim()),
  indexof: texts((of = "", part = "") => of.indexOf(part)),
  substring: (of, from, length) => {
    if (!isText(of) || typeof from !== "number" || typeof length !== "number" || from < 0) return undefined;
    return length < 0 ? of.slice(from) : of.slice(from, from + length);
  },
  to_number: (of) => {
    if (typeof of === "number") return of;
    if (of === null) return 0;
    if (typeof of === "boolean") return of ? 1 : 0;
    return isText(of) && /^[+-]?\d+(\.\d+)?([eE][+-]?\d+)?$/.test(of) ? Number(of) : undefined;
  },
  is_null: (of) => of === null,
  is_boolean: (of) => typeof of === "boolean",
  is_number: (of) => typeof of === "number",
  is_string: isText,
  is_array: isArray,
  is_object: isObject,
  is_set: (of) => of instanceof RegoSet,
  "array.concat": (one, other) => (isArray(one) && isArray(other) ? [...one, ...other] : undefined),
  "object.get": (of, key, otherwise) =>
    isObject(of) && isText(key) ? (Object.hasOwn(of, key) ? of[key] : otherwise) : undefined,
  "bits.and": (one, other) => bits(one, other, (left, right) => left & right),
  "bits.or": (one, other) => bits(one, other, (left, right) => left | right),
  "bits.negate": (of) => bits(of, 0, (value) => ~value),
  "json.marshal": (of) => (of === undefined || of instanceof RegoSet ? undefined : JSON.stringify(of)),
  "base64.encode": texts((of = "") => Buffer.from(of).toString("base64")),
  "regex.match": texts((pattern = "", of = "") => {
    const found = matches(pattern, of);
    return found && found.length > 0;
  }),
  "regex.find_all_string_submatch_n": (pattern, of, most) =>
    isText(pattern) && isText(of) && typeof most === "number"
      ? matches(pattern, of)?.slice(0, most < 0 ? undefined : most)
      : undefined,
};

function bits(one: Value | undefined, other: Value | undefined, work: (left: bigint, right: bigint) => bigint) {
  if (!Number.isSafeInteger(one) || !Number.isSafeInteger(other)) return undefined;
  return Number(work(BigInt(one as number), BigInt(other as number)));
}

/** A pattern is a stranger's, and JavaScript's engine goes back and forth: it is stopped after this. */
const REGEX_MS = 100;
/** RE2, which Rego's patterns are written for, has neither. */
const NOT_RE2 = /\(\?<?[=!]|\\[1-9]/;

let context: Context | undefined;
const script = new Script(`JSON.stringify([...text.matchAll(new RegExp(pattern, flags))].map((match) => [...match]))`);

/** Each match with its groups. Undefined: it is no pattern, or takes too long. */
function matches(pattern: string, text: string): string[][] | undefined {
  if (NOT_RE2.test(pattern)) return undefined;
  const [, inline = ""] = /^\(\?([ims]+)\)/.exec(pattern) ?? [];
  const own = pattern.replace(/^\(\?[ims]+\)/, "").replaceAll("(?P<", "(?<");
  context ??= createContext({ __proto__: null });
  Object.assign(context, { pattern: own, flags: `g${inline}`, text });
  try {
    const found = JSON.parse(script.runInContext(context, { timeout: REGEX_MS }) as string) as (string | null)[][];
    return found.map((groups) => groups.map((group) => group ?? ""));
  } catch (error) {
    // Of another context, so that instanceof does not know it.
    const { name, code } = error as { name?: string; code?: string };
    if (name === "SyntaxError" || code === "ERR_SCRIPT_EXECUTION_TIMEOUT") return undefined;
    throw error;
  }
}
