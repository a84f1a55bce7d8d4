/** What a policy says of a request: all ways in which a rule can hold are tried, one after the other, until one does. */
import { BUILTINS } from "./builtins.ts";
import { PolicyError, problem } from "./lexer.ts";
import { type Body, type Expr, keyOf, type Literal, type Module, RegoSet, type Rule, type Value } from "./syntax.ts";

/** A policy comes from a pod's owner: one that takes more than this is given up. A step takes about a microsecond. */
const MOST_STEPS = 200_000;
const DEEPEST = 200;

export interface Question {
  readonly module: Module;
  readonly input: Value;
  /** Beside the policy's own rules: `data.NAME`. */
  readonly data: Readonly<Record<string, Value>>;
}

/** What the rule says; undefined: nothing. Throws PolicyError. */
export function evaluate(question: Question, name: string): Value | undefined {
  return new Evaluation(question).rule(name, 0);
}

/** Variables and their values, innermost first. `value` undefined: declared, without a value yet. */
interface Scope {
  readonly name: string;
  readonly value: Value | undefined;
  readonly outer: Scope | undefined;
}
type Env = Scope | undefined;
type Found = readonly [value: Value, env: Env];

const bound = (env: Env, name: string, value: Value | undefined): Scope => ({ name, value, outer: env });

function lookUp(env: Env, name: string): Scope | undefined {
  for (let at = env; at; at = at.outer) if (at.name === name) return at;
  return undefined;
}

class Evaluation {
  readonly #question: Question;
  readonly #values = new Map<string, Value | undefined>();
  readonly #under = new Set<string>();
  #steps = 0;
  #depth = 0;

  constructor(question: Question) {
    this.#question = question;
  }

  rule(name: string, line: number): Value | undefined {
    if (this.#values.has(name)) return this.#values.get(name);
    if (this.#under.has(name)) throw problem(line, `${name}: asks for itself`);
    this.#under.add(name);
    const value = this.#defined(name, undefined) ?? this.#default(name);
    this.#under.delete(name);
    this.#values.set(name, value);
    return value;
  }

  #default(name: string): Value | undefined {
    const expr = this.#question.module.defaults.get(name);
    if (!expr) return undefined;
    for (const [value] of this.#each(expr, undefined)) return value;
    return undefined;
  }

  /** Of all rules of the name: those that hold must agree. */
  #defined(name: string, args: readonly Value[] | undefined): Value | undefined {
    if (++this.#depth > DEEPEST) throw new PolicyError(`${name}: calls more than ${DEEPEST} deep`);
    let found: Value | undefined;
    for (const rule of this.#question.module.rules.get(name) ?? []) {
      for (const value of this.#holds(rule, args)) {
        if (found !== undefined && keyOf(found) !== keyOf(value))
          throw problem(rule.line, `${name}: has two values at once`);
        found = value;
        // Without a value of its own it says no more than that it holds.
        if (rule.value === undefined) break;
      }
    }
    this.#depth--;
    return found;
  }

  *#holds(rule: Rule, args: readonly Value[] | undefined): Generator<Value> {
    let holds = false;
    for (const env of this.#parameters(rule, args ?? [], 0, undefined))
      for (const inner of this.#body(rule.body, 0, env))
        for (const [value] of rule.value ? this.#each(rule.value, inner) : [[true] as const]) {
          holds = true;
          yield value;
        }
    if (!holds && rule.otherwise) yield* this.#holds(rule.otherwise, args);
  }

  *#parameters({ parameters = [], line }: Rule, args: readonly Value[], at: number, env: Env): Generator<Env> {
    const [pattern, value] = [parameters[at], args[at]];
    if (!pattern || value === undefined) return void (yield env);
    for (const next of this.#match(pattern, value, env, line))
      yield* this.#parameters({ parameters, line } as Rule, args, at + 1, next);
  }

  *#body(body: Body, at: number, env: Env): Generator<Env> {
    const literal = body[at];
    if (!literal) return void (yield env);
    for (const next of this.#literal(literal, env)) yield* this.#body(body, at + 1, next);
  }

  *#literal(literal: Literal, env: Env): Generator<Env> {
    this.#step();
    switch (literal.kind) {
      case "expr":
        for (const [value, next] of this.#each(literal.expr, env)) if (value !== false) yield next;
        return;
      case "not": {
        for (const _ of this.#literal(literal.literal, env)) return;
        return void (yield env);
      }
      case "some":
        return void (yield literal.names.reduce((inner: Env, name) => bound(inner, name, undefined), env));
      case "some-in":
        return yield* this.#someIn(literal, env);
      case "every":
        return yield* this.#every(literal, env);
      case "unify":
        return yield* this.#unify(literal, env);
    }
  }

  *#someIn({ key, value, of, line }: Literal & { kind: "some-in" }, env: Env): Generator<Env> {
    for (const [collection, inner] of this.#each(of, env)) {
      const fresh = [key, value].reduce(
        (all: Env, each) => (each?.kind === "name" ? bound(all, each.name, undefined) : all),
        inner,
      );
      for (const [index, item] of entriesOf(collection))
        for (const next of key ? this.#match(key, index, fresh, line) : [fresh])
          yield* this.#match(value, item, next, line);
    }
  }

  *#every({ key, value, of, body }: Literal & { kind: "every" }, env: Env): Generator<Env> {
    for (const [collection] of this.#each(of, env)) {
      const holds = entriesOf(collection).every(([index, item]) => {
        const inner = bound(key === undefined ? env : bound(env, key, index), value, item);
        for (const _ of this.#body(body, 0, inner)) return true;
        return false;
      });
      if (holds) yield env;
      return;
    }
  }

  *#unify({ strict, left, right, line }: Literal & { kind: "unify" }, env: Env): Generator<Env> {
    const declared = strict && left.kind === "name" ? bound(env, left.name, undefined) : env;
    if (!strict && this.#isOpen(right, env)) {
      for (const [value, next] of this.#each(left, env)) yield* this.#match(right, value, next, line);
      return;
    }
    for (const [value, next] of this.#each(right, env)) {
      // The name on the left may be one outside, which the right still means.
      const target = strict && left.kind === "name" ? bound(next, left.name, undefined) : next;
      yield* this.#match(left, value, declared === env ? next : target, line);
    }
  }

  /** Whether it is a variable without a value. */
  #isOpen(expr: Expr, env: Env): boolean {
    if (expr.kind !== "name") return false;
    if (expr.name === "_") return true;
    const scope = lookUp(env, expr.name);
    return scope ? scope.value === undefined : !this.#isKnown(expr.name);
  }

  #isKnown(name: string): boolean {
    const { rules, defaults } = this.#question.module;
    return name === "input" || name === "data" || rules.has(name) || defaults.has(name);
  }

  /** Gives variables of the pattern the values that make it equal. */
  *#match(pattern: Expr, value: Value, env: Env, line: number): Generator<Env> {
    if (pattern.kind === "name" && this.#isOpen(pattern, env))
      return void (yield pattern.name === "_" ? env : bound(env, pattern.name, value));
    if (pattern.kind === "array") {
      if (!Array.isArray(value) || value.length !== pattern.items.length) return;
      return yield* this.#matchAll(pattern.items, value as readonly Value[], 0, env, line);
    }
    for (const [known, next] of this.#each(pattern, env)) if (keyOf(known) === keyOf(value)) yield next;
  }

  *#matchAll(items: readonly Expr[], values: readonly Value[], at: number, env: Env, line: number): Generator<Env> {
    const [item, value] = [items[at], values[at]];
    if (!item || value === undefined) return void (yield env);
    for (const next of this.#match(item, value, env, line)) yield* this.#matchAll(items, values, at + 1, next, line);
  }

  #step(): void {
    if (++this.#steps > MOST_STEPS) throw new PolicyError(`takes more than ${MOST_STEPS} steps`);
  }

  /** Every value that it has, with the variables' values that go with it. */
  *#each(expr: Expr, env: Env): Generator<Found> {
    this.#step();
    switch (expr.kind) {
      case "scalar":
        return void (yield [expr.value, env]);
      case "name": {
        const value = this.#name(expr.name, expr.line, env);
        if (value !== undefined) yield [value, env];
        return;
      }
      case "index":
        return yield* this.#index(expr, env);
      case "array":
        for (const [values, next] of this.#all(expr.items, 0, env)) yield [values, next];
        return;
      case "set":
        for (const [values, next] of this.#all(expr.items, 0, env)) yield [new RegoSet(values), next];
        return;
      case "object":
        for (const [values, next] of this.#all(expr.entries.flat(), 0, env)) yield [objectOf(values), next];
        return;
      case "call":
        return yield* this.#call(expr, env);
      case "comprehension":
        return void (yield [this.#comprehension(expr, env), env]);
      case "binary":
        for (const [[left = null, right = null], next] of this.#all([expr.left, expr.right], 0, env)) {
          const value = operated(expr.operator, left, right);
          if (value !== undefined) yield [value, next];
        }
    }
  }

  *#all(exprs: readonly Expr[], at: number, env: Env): Generator<readonly [values: readonly Value[], env: Env]> {
    const expr = exprs[at];
    if (!expr) return void (yield [[], env]);
    for (const [value, next] of this.#each(expr, env))
      for (const [rest, last] of this.#all(exprs, at + 1, next)) yield [[value, ...rest], last];
  }

  #name(name: string, line: number, env: Env): Value | undefined {
    const scope = lookUp(env, name);
    if (scope?.value !== undefined) return scope.value;
    if (scope || !this.#isKnown(name))
      throw problem(line, `${name}: has no value here; what gives it one must come before`);
    if (name === "input") return this.#question.input;
    if (name === "data") return this.#question.data;
    return this.rule(name, line);
  }

  *#index({ of, by, line }: Expr & { kind: "index" }, env: Env): Generator<Found> {
    // data.agent_policy.NAME is a rule.
    if (of.kind === "index" && of.of.kind === "name" && of.of.name === "data" && by.kind === "scalar") {
      if (of.by.kind === "scalar" && of.by.value === "agent_policy" && !lookUp(env, "data")) {
        const value = this.rule(String(by.value), line);
        if (value !== undefined) yield [value, env];
        return;
      }
    }
    for (const [collection, inner] of this.#each(of, env)) {
      if (this.#isOpen(by, inner)) {
        for (const [key, value] of entriesOf(collection))
          for (const next of this.#match(by, key, inner, line)) yield [value, next];
      } else {
        for (const [key, next] of this.#each(by, inner)) {
          const value = itemOf(collection, key);
          if (value !== undefined) yield [value, next];
        }
      }
    }
  }

  *#call({ name, args, line }: Expr & { kind: "call" }, env: Env): Generator<Found> {
    const own = this.#question.module.rules.get(name)?.[0];
    const builtin = Object.hasOwn(BUILTINS, name) ? BUILTINS[name] : undefined;
    if (!own?.parameters && !builtin) throw problem(line, `${name}: no such function here`);
    if (own?.parameters && own.parameters.length !== args.length)
      throw problem(line, `${name}: takes ${own.parameters.length} arguments, and is given ${args.length}`);
    // What is printed need not be there.
    if (name === "print" && !own) return void (yield [true, env]);
    for (const [values, next] of this.#all(args, 0, env)) {
      const value = own?.parameters ? this.#defined(name, values) : builtin?.(...values);
      if (value !== undefined) yield [value, next];
    }
  }

  #comprehension({ makes, key, head, body }: Expr & { kind: "comprehension" }, env: Env): Value {
    const values: Value[] = [];
    for (const inner of this.#body(body, 0, env))
      for (const [found] of this.#all(key ? [key, head] : [head], 0, inner)) values.push(...found);
    if (makes === "object") return objectOf(values);
    return makes === "set" ? new RegoSet(values) : values;
  }
}

/** Keys and values in turn. */
function objectOf(values: readonly Value[]): Value {
  const object: Record<string, Value> = {};
  for (let at = 0; at < values.length; at += 2) {
    const [key, value] = [values[at], values[at + 1]];
    const name = typeof key === "string" ? key : keyOf(key ?? null);
    if (value !== undefined) Object.defineProperty(object, name, { value, enumerable: true });
  }
  return object;
}

function entriesOf(value: Value): (readonly [key: Value, value: Value])[] {
  if (value instanceof RegoSet) return value.values.map((each) => [each, each]);
  if (Array.isArray(value)) return [...(value as readonly Value[]).entries()];
  if (typeof value !== "object" || value === null) return [];
  return Object.entries(value);
}

function itemOf(of: Value, key: Value): Value | undefined {
  if (of instanceof RegoSet) return of.has(key) ? key : undefined;
  if (Array.isArray(of)) return typeof key === "number" ? (of as readonly Value[])[key] : undefined;
  if (typeof of !== "object" || of === null || typeof key !== "string") return undefined;
  return Object.hasOwn(of, key) ? (of as Readonly<Record<string, Value>>)[key] : undefined;
}

function operated(operator: string, left: Value, right: Value): Value | undefined {
  switch (operator) {
    case "==":
      return keyOf(left) === keyOf(right);
    case "!=":
      return keyOf(left) !== keyOf(right);
    case "in":
      return entriesOf(right).some(([, value]) => keyOf(value) === keyOf(left));
    case "|":
    case "&":
    case "-":
      if (left instanceof RegoSet && right instanceof RegoSet) return ofSets(operator, left, right);
  }
  if (operator.startsWith("<") || operator.startsWith(">")) return compared(operator, left, right);
  if (typeof left !== "number" || typeof right !== "number") return undefined;
  return calculated(operator, left, right);
}

function ofSets(operator: string, left: RegoSet, right: RegoSet): RegoSet {
  if (operator === "|") return new RegoSet([...left.values, ...right.values]);
  const isWanted = operator === "&";
  return new RegoSet(left.values.filter((value) => right.has(value) === isWanted));
}

function compared(operator: string, left: Value, right: Value): boolean | undefined {
  const both = (type: string): boolean => typeof left === type && typeof right === type;
  if (!both("number") && !both("string")) return undefined;
  const [one, other] = [left as number, right as number];
  if (operator === "<") return one < other;
  if (operator === "<=") return one <= other;
  return operator === ">" ? one > other : one >= other;
}

function calculated(operator: string, left: number, right: number): number | undefined {
  if (operator === "+") return left + right;
  if (operator === "-") return left - right;
  if (operator === "*") return left * right;
  if (right === 0) return undefined;
  return operator === "/" ? left / right : left % right;
}
