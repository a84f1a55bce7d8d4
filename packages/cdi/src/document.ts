/**
 * A YAML (or JSON) document as typed values, with the place of everything that is wrong: strict, as CDI wants it. Unknown
 * fields, repeated keys and values of another type are errors. A number or boolean where a text belongs is that text
 * (`name: 0`), and null is absent, as for the Go programs that share these files.
 */
import {
  type Document,
  isAlias,
  isMap,
  isPair,
  isScalar,
  isSeq,
  LineCounter,
  type Node,
  parseAllDocuments,
  type Tags,
  type YAMLError,
} from "yaml";
import { nearest } from "@berth/spec/nearest";
import { CdiError, fieldName, type FieldPath, type Place } from "./errors.ts";

export type Decode<T> = (value: Value) => T;
/** A decoder for each field; those that may be absent are left out of the result. */
export type Fields<T> = { readonly [K in keyof T]-?: Decode<Exclude<T[K], undefined>> };

/** YAML 1.1's words and octal numbers, but neither its sexagesimal ones (a device "1:0") nor its dates. */
const dropTags = (tags: Tags): Tags =>
  tags.filter((tag) => typeof tag !== "object" || (tag.format !== "TIME" && !tag.tag.endsWith(":timestamp")));

export class Text {
  readonly #document: Document;
  readonly #lines: LineCounter;
  readonly #file: string | undefined;

  /** Throws CdiError naming line and column. */
  static parse(text: string, file?: string): Text {
    const lines = new LineCounter();
    const parsed = parseAllDocuments(text, {
      lineCounter: lines,
      version: "1.1",
      customTags: dropTags,
      prettyErrors: false,
      strict: true,
      uniqueKeys: true,
      stringKeys: false,
    });
    const documents = Array.isArray(parsed) ? parsed : [];
    const [document, second] = documents.filter((one, index) => index === 0 || one.contents !== null);
    if (document === undefined) throw new CdiError({ file, line: 1, column: 1 }, "no CDI specification in it");
    const [error] = documents.flatMap((one): YAMLError[] => one.errors);
    if (error !== undefined) throw new CdiError({ file, ...position(lines, error.pos[0]) }, lowerFirst(error.message));
    if (second !== undefined)
      throw new CdiError({ file, ...position(lines, second.range[0]) }, "a second document: a file holds one");
    return new Text(document, lines, file);
  }

  private constructor(document: Document, lines: LineCounter, file: string | undefined) {
    this.#document = document;
    this.#lines = lines;
    this.#file = file;
  }

  root(): Value {
    return new Value(this, this.#document.contents, []);
  }

  resolve(node: Node): Node | undefined {
    return isAlias(node) ? node.resolve(this.#document) : node;
  }

  /** Where the field is; where it is missing, what it should be in. */
  place(path: FieldPath): Place {
    for (let length = path.length; length >= 0; length--) {
      const node = this.#document.getIn(path.slice(0, length), true) as Node | undefined;
      if (node?.range) return { file: this.#file, ...position(this.#lines, node.range[0]) };
    }
    return { file: this.#file };
  }

  /** The field's text, if it is one. */
  scalar(path: FieldPath): string | undefined {
    const node = this.#document.getIn(path, true);
    const value: unknown = isScalar(node) ? node.value : undefined;
    return typeof value === "string" || typeof value === "number" ? String(value) : undefined;
  }

  fail(path: FieldPath, what: string): CdiError {
    return new CdiError({ ...this.place(path), field: path.length > 0 ? fieldName(path) : undefined }, what);
  }
}

export class Value {
  readonly path: FieldPath;
  readonly #text: Text;
  readonly #node: Node | undefined;

  constructor(text: Text, node: Node | null | undefined, path: FieldPath) {
    this.#text = text;
    this.#node = node === null || node === undefined ? undefined : text.resolve(node);
    this.path = path;
  }

  get absent(): boolean {
    return this.#node === undefined || (isScalar(this.#node) && this.#node.value === null);
  }

  get isList(): boolean {
    return isSeq(this.#node);
  }

  /** undefined: there is no such field. Throws CdiError for what is no map. */
  field(name: string): Value | undefined {
    return new Map(this.#entries()).get(name);
  }

  fail(what: string): CdiError {
    return this.#text.fail(this.path, what);
  }

  string(): string {
    const value = this.#scalar("a text");
    if (typeof value === "string") {
      if (value.includes("\0")) throw this.fail("holds a NUL character");
      return value;
    }
    if (typeof value === "number" || typeof value === "boolean" || typeof value === "bigint") return String(value);
    throw this.fail(`is ${kindOf(value)}, not a text`);
  }

  integer(min: number, max: number): number {
    const value = this.#scalar("a whole number");
    if (typeof value !== "number" || !Number.isInteger(value))
      throw this.fail(`is ${kindOf(value)}, not a whole number`);
    if (value < min || value > max) throw this.fail(`${value} is not between ${min} and ${max}`);
    return value;
  }

  boolean(): boolean {
    const value = this.#scalar("true or false");
    if (typeof value !== "boolean") throw this.fail(`is ${kindOf(value)}, not true or false`);
    return value;
  }

  list<T>(decode: Decode<T>): T[] {
    const node = this.#node;
    if (!isSeq(node)) throw this.fail(`is ${this.#kind()}, not a list`);
    return node.items.map((item, index) => decode(new Value(this.#text, item as Node | null, [...this.path, index])));
  }

  map<T>(decode: Decode<T>): Record<string, T> {
    return Object.fromEntries(this.#entries().map(([key, value]) => [key, decode(value)]));
  }

  object<T extends object>(fields: Fields<T>): T {
    const entries = new Map(this.#entries());
    for (const [key, value] of entries)
      if (!Object.hasOwn(fields, key)) {
        const meant = nearest(key, Object.keys(fields));
        throw value.fail(`unknown field${meant === undefined ? "" : ` (did you mean "${meant}"?)`}`);
      }
    // In the order of the table, as a program with a struct would write them.
    const result = Object.entries<Decode<unknown>>(fields).flatMap(([key, decode]) => {
      const value = entries.get(key);
      return value === undefined || value.absent ? [] : [[key, decode(value)] as const];
    });
    return Object.fromEntries(result) as T;
  }

  /** With merged maps (`<<`), whose entries yield to the map's own. */
  #entries(): [key: string, value: Value][] {
    const node = this.#node;
    if (!isMap(node)) throw this.fail(`is ${this.#kind()}, not a map of fields`);
    const entries = new Map<string, Value>();
    for (const pair of node.items) {
      if (!isPair(pair) || !isScalar(pair.key)) throw this.fail("has a field whose name is not a text");
      const name = pair.key.value;
      const key = typeof name === "symbol" ? (name.description ?? "") : String(name);
      const value = new Value(this.#text, pair.value as Node | null, [...this.path, key]);
      if (key !== "<<") entries.set(key, value);
      else for (const [merged, inner] of value.#merged()) if (!entries.has(merged)) entries.set(merged, inner);
    }
    return [...entries];
  }

  #merged(): [string, Value][] {
    return isSeq(this.#node) ? this.list((item) => item.#entries()).flat() : this.#entries();
  }

  #scalar(wanted: string): unknown {
    if (!isScalar(this.#node)) throw this.fail(`is ${this.#kind()}, not ${wanted}`);
    return this.#node.value;
  }

  #kind(): string {
    if (this.absent) return "empty";
    return isMap(this.#node)
      ? "a map of fields"
      : isSeq(this.#node)
        ? "a list"
        : kindOf((this.#node as { value?: unknown }).value);
  }
}

function kindOf(value: unknown): string {
  return typeof value === "string" ? "a text" : value === null ? "empty" : JSON.stringify(value);
}

function position(lines: LineCounter, offset: number): { line: number; column: number } {
  const { line, col } = lines.linePos(offset);
  return { line: Math.max(line, 1), column: Math.max(col, 1) };
}

const lowerFirst = (text: string): string => text.slice(0, 1).toLowerCase() + text.slice(1);
