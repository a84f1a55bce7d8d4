/** A policy as a tree. */

export type Value = null | boolean | number | string | readonly Value[] | RegoSet | { readonly [key: string]: Value };

/** Each value once, in the order in which they came. */
export class RegoSet {
  readonly #values = new Map<string, Value>();

  constructor(values: Iterable<Value> = []) {
    for (const value of values) this.#values.set(keyOf(value), value);
  }

  has(value: Value): boolean {
    return this.#values.has(keyOf(value));
  }

  get size(): number {
    return this.#values.size;
  }

  get values(): Value[] {
    return [...this.#values.values()];
  }

  get keys(): string[] {
    return [...this.#values.keys()].sort();
  }
}

/** The same for values that are equal. */
export function keyOf(value: Value): string {
  if (value instanceof RegoSet) return `<${value.keys.join(",")}>`;
  if (Array.isArray(value)) return `[${(value as readonly Value[]).map(keyOf).join(",")}]`;
  if (typeof value !== "object" || value === null) return JSON.stringify(value);
  const entries = Object.entries(value).sort(([one], [other]) => (one < other ? -1 : 1));
  return `{${entries.map(([key, each]) => `${JSON.stringify(key)}:${keyOf(each)}`).join(",")}}`;
}

export type Expr =
  | { readonly kind: "scalar"; readonly value: null | boolean | number | string }
  | { readonly kind: "array" | "set"; readonly items: readonly Expr[] }
  | { readonly kind: "object"; readonly entries: readonly (readonly [key: Expr, value: Expr])[] }
  | { readonly kind: "name"; readonly name: string; readonly line: number }
  | { readonly kind: "index"; readonly of: Expr; readonly by: Expr; readonly line: number }
  | { readonly kind: "call"; readonly name: string; readonly args: readonly Expr[]; readonly line: number }
  | {
      readonly kind: "comprehension";
      readonly makes: "array" | "set" | "object";
      /** Of an object. */
      readonly key?: Expr;
      readonly head: Expr;
      readonly body: Body;
    }
  | {
      readonly kind: "binary";
      readonly operator: string;
      readonly left: Expr;
      readonly right: Expr;
      readonly line: number;
    };

export type Literal =
  | { readonly kind: "expr"; readonly expr: Expr }
  | { readonly kind: "not"; readonly literal: Literal }
  /** `strict`: by ":=", which gives a new variable its value. */
  | {
      readonly kind: "unify";
      readonly strict: boolean;
      readonly left: Expr;
      readonly right: Expr;
      readonly line: number;
    }
  | { readonly kind: "some"; readonly names: readonly string[] }
  | {
      readonly kind: "some-in";
      readonly key: Expr | undefined;
      readonly value: Expr;
      readonly of: Expr;
      readonly line: number;
    }
  | {
      readonly kind: "every";
      readonly key: string | undefined;
      readonly value: string;
      readonly of: Expr;
      readonly body: Body;
      readonly line: number;
    };

export type Body = readonly Literal[];

export interface Rule {
  readonly name: string;
  readonly line: number;
  /** Undefined: it is no function. */
  readonly parameters: readonly Expr[] | undefined;
  /** Undefined: true. */
  readonly value: Expr | undefined;
  readonly body: Body;
  /** What counts where it does not hold: "else". */
  readonly otherwise: Rule | undefined;
}

export interface Module {
  readonly rules: ReadonlyMap<string, readonly Rule[]>;
  readonly defaults: ReadonlyMap<string, Expr>;
}
