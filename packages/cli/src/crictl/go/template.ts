/** Go's text/template over JSON, with the functions that crictl adds: json, title, lower, upper. A key that is not there is an error. */
import { CrictlError } from "../errors.ts";
import { goJson, type Json } from "./json.ts";
import {
  type Control,
  type Expression,
  type Leaving,
  type Node,
  parseTemplate,
  type Pipeline,
} from "./template-parse.ts";

const fail = (message: string): never => {
  throw new CrictlError(`failed to template data: template: tmplExecuteRawJSON:1: ${message}`);
};

/** Throws CrictlError for what is no template. */
export const validate = (source: string): void => void parseTemplate(source);

export function execute(source: string, data: Json): string {
  const out: string[] = [];
  walk(parseTemplate(source), { dot: data, variables: new Map([["$", { value: data }]]) }, out);
  return out.join("");
}

interface Scope {
  readonly dot: Json;
  /** Cells, so that "=" reaches the variable of an outer block. */
  readonly variables: Map<string, { value: Json }>;
}

type Leave = "break" | "continue" | undefined;

const isLeave = (node: Node): node is Leaving => node.kind === "break" || node.kind === "continue";

function walk(nodes: readonly Node[], scope: Scope, out: string[]): Leave {
  for (const node of nodes) {
    if (node.kind === "text") out.push(node.text);
    else if (node.kind === "print") {
      const value = evaluate(node.pipeline, scope);
      if (node.pipeline.declares.length === 0) out.push(show(value));
    } else if (isLeave(node)) return node.kind;
    else {
      const leave = node.kind === "range" ? range(node, scope, out) : branch(node, scope, out);
      if (leave) return leave;
    }
  }
  return undefined;
}

function branch({ kind, pipeline, body, otherwise }: Control, scope: Scope, out: string[]): Leave {
  const inner = { dot: scope.dot, variables: new Map(scope.variables) };
  const value = evaluate(pipeline, inner);
  if (!truth(value)) return walk(otherwise, inner, out);
  return walk(body, kind === "with" ? { ...inner, dot: value } : inner, out);
}

function range({ pipeline, body, otherwise }: Control, scope: Scope, out: string[]): Leave {
  const value = evaluate({ ...pipeline, declares: [] }, scope);
  const items = entriesOf(value);
  if (items.length === 0) return walk(otherwise, scope, out);
  for (const [key, item] of items) {
    const variables = new Map(scope.variables);
    const [first, second] = pipeline.declares;
    if (second !== undefined) variables.set(second, { value: item });
    if (first !== undefined) variables.set(first, { value: second === undefined ? item : key });
    if (walk(body, { dot: item, variables }, out) === "break") break;
  }
  return undefined;
}

function entriesOf(value: Json): [Json, Json][] {
  if (value === null) return [];
  if (Array.isArray(value)) return value.map((item, index): [Json, Json] => [index, item as Json]);
  if (typeof value === "number")
    return Array.from({ length: Math.max(0, value) }, (_, index): [Json, Json] => [index, index]);
  if (typeof value !== "object") return fail(`range can't iterate over ${show(value)}`);
  return Object.entries(value).toSorted(([a], [b]) => (a < b ? -1 : 1));
}

function evaluate({ commands, declares, assigns }: Pipeline, scope: Scope): Json {
  let value: Json | undefined;
  for (const command of commands) value = resolve(command, scope, value);
  const result = value ?? null;
  for (const name of declares) {
    const known = scope.variables.get(name);
    if (assigns && known) known.value = result;
    else scope.variables.set(name, { value: result });
  }
  return result;
}

/** `piped`: what the command before it in the pipeline gave; its last argument. */
function resolve(expression: Expression, scope: Scope, piped: Json | undefined): Json {
  switch (expression.kind) {
    case "literal":
      return expression.value;
    case "dot":
      return scope.dot;
    case "variable":
      return (scope.variables.get(expression.name) ?? fail(`undefined variable ${JSON.stringify(expression.name)}`))
        .value;
    case "field":
      return expression.names.reduce(fieldOf, resolve(expression.of, scope, undefined));
    case "pipe":
      return evaluate(expression.pipeline, { dot: scope.dot, variables: new Map(scope.variables) });
    case "call": {
      const call = FUNCTIONS[expression.name] ?? fail(`function ${JSON.stringify(expression.name)} not defined`);
      const args = expression.args.map((arg) => resolve(arg, scope, undefined));
      return call(...args, ...(piped === undefined ? [] : [piped]));
    }
  }
}

function fieldOf(value: Json, name: string): Json {
  if (value === null) return fail(`nil data; no entry for key ${JSON.stringify(name)}`);
  if (typeof value !== "object" || Array.isArray(value))
    return fail(`can't evaluate field ${name} in type interface {}`);
  const found = (value as { readonly [key: string]: Json })[name];
  return found === undefined ? fail(`map has no entry for key ${JSON.stringify(name)}`) : found;
}

function truth(value: Json): boolean {
  if (Array.isArray(value)) return value.length > 0;
  return value !== null && typeof value === "object" ? Object.keys(value).length > 0 : Boolean(value);
}

/** fmt's %v. */
function show(value: Json): string {
  if (value === null) return "<no value>";
  if (Array.isArray(value)) return `[${value.map((item) => show(item as Json)).join(" ")}]`;
  if (typeof value !== "object") return String(value);
  return `map[${entriesOf(value)
    .map(([key, item]) => `${show(key)}:${show(item)}`)
    .join(" ")}]`;
}

const compare = (a: Json, b: Json): number => {
  if (typeof a !== typeof b || (typeof a !== "number" && typeof a !== "string"))
    return fail("incompatible types for comparison");
  return a < (b as typeof a) ? -1 : a > (b as typeof a) ? 1 : 0;
};
const equal = (a: Json, b: Json): boolean =>
  typeof a === "object" && a !== null ? fail("non-comparable type") : a === b;
const length = (value: Json): number => {
  if (typeof value === "string") return Buffer.byteLength(value);
  return Array.isArray(value)
    ? value.length
    : value !== null && typeof value === "object"
      ? Object.keys(value).length
      : fail(`len of type ${typeof value}`);
};
const text = (value: Json): string =>
  typeof value === "string" ? value : fail(`wrong type for value; expected string; got ${show(value)}`);

function index(value: Json, ...keys: Json[]): Json {
  return keys.reduce<Json>((at, key) => {
    if (Array.isArray(at)) return (at[Number(key)] as Json | undefined) ?? fail(`index out of range: ${show(key)}`);
    if (at === null || typeof at !== "object") return fail(`can't index item of type ${typeof at}`);
    return (at as { readonly [key: string]: Json })[show(key)] ?? null;
  }, value);
}

function printf(format: Json, ...args: Json[]): string {
  let used = 0;
  return text(format).replace(
    /%([-+ 0#]*)(\d*)(?:\.(\d+))?([vsdqtfx%])/g,
    (_all, flags: string, width: string, precision: string | undefined, verb: string) => {
      if (verb === "%") return "%";
      const value = args[used++];
      if (value === undefined) return `%!${verb}(MISSING)`;
      const plain =
        verb === "q"
          ? JSON.stringify(show(value))
          : verb === "f"
            ? Number(value).toFixed(Number(precision ?? 6))
            : verb === "x"
              ? Number(value).toString(16)
              : show(value);
      return flags.includes("-")
        ? plain.padEnd(Number(width))
        : plain.padStart(Number(width), flags.includes("0") ? "0" : " ");
    },
  );
}

const FUNCTIONS: Readonly<Record<string, ((...args: Json[]) => Json) | undefined>> = {
  json: (value = null) => `${goJson(value, "")}\n`,
  title: (value = "") =>
    text(value).replace(/\p{L}[\p{L}\p{N}'’]*/gu, (word) => word.charAt(0).toUpperCase() + word.slice(1)),
  lower: (value = "") => text(value).toLowerCase(),
  upper: (value = "") => text(value).toUpperCase(),
  and: (...args) => args.find((value) => !truth(value)) ?? args.at(-1) ?? null,
  or: (...args) => args.find(truth) ?? args.at(-1) ?? null,
  not: (value = null) => !truth(value),
  eq: (first = null, ...others) => others.some((other) => equal(first, other)),
  ne: (a = null, b = null) => !equal(a, b),
  lt: (a = null, b = null) => compare(a, b) < 0,
  le: (a = null, b = null) => compare(a, b) <= 0,
  gt: (a = null, b = null) => compare(a, b) > 0,
  ge: (a = null, b = null) => compare(a, b) >= 0,
  len: (value = null) => length(value),
  index: (value = null, ...keys) => index(value, ...keys),
  slice: (value = null, from = 0, to = length(value)) =>
    typeof value === "string" || Array.isArray(value)
      ? value.slice(Number(from), Number(to))
      : fail("slice of no list"),
  print: (...args) => args.map(show).join(" "),
  println: (...args) => `${args.map(show).join(" ")}\n`,
  printf: (format = "", ...args) => printf(format, ...args),
};
