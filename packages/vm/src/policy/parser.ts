/** Rego (openpolicyagent.org/docs/policy-language), v0 and v1, as far as policies for agents go; anything else is refused with its line. */
import { type PolicyError, problem, type Token, tokensOf } from "./lexer.ts";
import type { Body, Expr, Literal, Module, Rule } from "./syntax.ts";

const PACKAGE = "agent_policy";
/** As many brackets may stand in one another. */
const DEEPEST = 100;

/** By binding strength, the weakest first. */
const OPERATORS: readonly (readonly string[])[] = [
  ["in"],
  ["==", "!=", "<", "<=", ">", ">="],
  ["|"],
  ["&"],
  ["+", "-"],
  ["*", "/", "%"],
];
const KEYWORDS = new Set(["not", "some", "every", "if", "in", "else", "with", "default", "import", "package", "as"]);

/** Throws PolicyError. */
export function parsePolicy(text: string): Module {
  return new Parser(tokensOf(text)).module();
}

class Parser {
  readonly #tokens: readonly Token[];
  #at = 0;
  #depth = 0;

  constructor(tokens: readonly Token[]) {
    this.#tokens = tokens;
  }

  module(): Module {
    this.#take("package");
    const name = this.#dotted();
    if (name !== PACKAGE) throw problem(this.#last.line, `package ${name}: must be ${PACKAGE}`);
    while (this.#is("import")) this.#import();
    const rules = new Map<string, Rule[]>();
    const defaults = new Map<string, Expr>();
    while (this.#next.kind !== "end") {
      if (!this.#next.first) throw this.#unexpected("a rule begins a line");
      if (this.#is("default")) this.#default(defaults);
      else {
        const rule = this.#rule();
        const known = rules.get(rule.name) ?? [];
        if (known.some(({ parameters }) => parameters?.length !== rule.parameters?.length))
          throw problem(rule.line, `${rule.name}: is defined with another number of parameters above`);
        rules.set(rule.name, [...known, rule]);
      }
    }
    return { rules, defaults };
  }

  #import(): void {
    const { line } = this.#take("import");
    const path = this.#dotted();
    if (!/^(future\.keywords(\.(in|every|if|contains))?|rego\.v1|input)$/.test(path))
      throw problem(line, `import ${path}: only rego.v1, future.keywords and input can be imported`);
    if (this.#is("as")) throw problem(line, "import … as: a name of one's own cannot be given");
  }

  #default(defaults: Map<string, Expr>): void {
    this.#take("default");
    const { text, line } = this.#name();
    if (!this.#skip(":=") && !this.#skip("=")) throw this.#unexpected(`default ${text} needs := and a value`);
    const value = this.#expr(0);
    if (!isConstant(value)) throw problem(line, `default ${text}: must be a constant`);
    if (defaults.has(text)) throw problem(line, `default ${text}: is given twice`);
    defaults.set(text, value);
  }

  #rule(): Rule {
    const { text: name, line } = this.#name();
    const parameters = this.#isMark("(") ? this.#list("(", ")", () => this.#expr(0)) : undefined;
    if (this.#isMark("[") || this.#isMark(".") || this.#is("contains"))
      throw problem(line, `${name}: rules that make a set or an object bit by bit are not evaluated here`);
    return this.#definition(name, line, parameters);
  }

  #definition(name: string, line: number, parameters: Rule["parameters"]): Rule {
    const value = this.#skip(":=") || this.#skip("=") ? this.#expr(0) : undefined;
    const conditional = this.#skip("if");
    const body = this.#isMark("{") ? this.#block() : conditional ? [this.#literal()] : undefined;
    if (body === undefined && value === undefined) throw this.#unexpected(`${name} needs a value or a body`);
    const otherwise = this.#skip("else") ? this.#definition(name, this.#last.line, parameters) : undefined;
    return { name, line, parameters, value, body: body ?? [], otherwise };
  }

  #block(): Body {
    this.#take("{");
    const body = this.#body("}");
    this.#take("}");
    return body;
  }

  #body(end: string): Body {
    const literals: Literal[] = [];
    while (!this.#isMark(end)) {
      literals.push(this.#literal());
      if (this.#skip(";") || this.#isMark(end)) continue;
      if (!this.#next.first) throw this.#unexpected("; or a new line must stand between expressions");
    }
    if (literals.length === 0) throw this.#unexpected("a body must not be empty");
    return literals;
  }

  #literal(): Literal {
    if (this.#skip("not")) return { kind: "not", literal: this.#literal() };
    if (this.#is("some")) return this.#some();
    if (this.#is("every")) return this.#every();
    const left = this.#expr(0);
    const { line } = this.#next;
    const literal: Literal =
      this.#isMark(":=") || this.#isMark("=")
        ? { kind: "unify", strict: this.#take().text === ":=", left, right: this.#expr(0), line }
        : { kind: "expr", expr: left };
    if (this.#is("with")) throw problem(this.#next.line, "with is not evaluated here");
    return literal;
  }

  #some(): Literal {
    const { line } = this.#take("some");
    const first = this.#expr(1);
    const names = [first];
    while (this.#skip(",")) names.push(this.#expr(1));
    if (!this.#skip("in")) {
      return {
        kind: "some",
        names: names.map((each) => {
          if (each.kind !== "name") throw problem(line, "some: names of variables must follow");
          return each.name;
        }),
      };
    }
    const [one, two, three] = names;
    if (three !== undefined || one === undefined) throw problem(line, "some … in: one or two names must follow");
    const of = this.#expr(0);
    return { kind: "some-in", key: two === undefined ? undefined : one, value: two ?? one, of, line };
  }

  #every(): Literal {
    const { line } = this.#take("every");
    const one = this.#name().text;
    const two = this.#skip(",") ? this.#name().text : undefined;
    this.#take("in");
    const of = this.#expr(0);
    return {
      kind: "every",
      key: two === undefined ? undefined : one,
      value: two ?? one,
      of,
      body: this.#block(),
      line,
    };
  }

  #expr(level: number): Expr {
    const operators = OPERATORS[level];
    if (!operators) return this.#postfix();
    let left = this.#expr(level + 1);
    while (!this.#next.first && operators.includes(this.#next.text) && this.#next.kind !== "string") {
      const { text: operator, line } = this.#take();
      left = { kind: "binary", operator, left, right: this.#expr(level + 1), line };
    }
    return left;
  }

  #postfix(): Expr {
    if (++this.#depth > DEEPEST) throw problem(this.#next.line, `brackets more than ${DEEPEST} deep`);
    let expr = this.#primary();
    for (;;) {
      const { line } = this.#next;
      if (this.#next.apart) break;
      if (this.#skip(".")) expr = { kind: "index", of: expr, by: text(this.#name().text), line };
      else if (this.#isMark("[")) {
        this.#take();
        expr = { kind: "index", of: expr, by: this.#expr(0), line };
        this.#take("]");
      } else if (this.#isMark("(")) {
        expr = { kind: "call", name: pathOf(expr, line), args: this.#list("(", ")", () => this.#expr(0)), line };
      } else break;
    }
    this.#depth--;
    return expr;
  }

  #primary(): Expr {
    const token = this.#take();
    const { kind, text: word, line } = token;
    if (kind === "string") return text(word);
    if (kind === "number") return { kind: "scalar", value: Number(word) };
    if (kind === "name") {
      if (word === "true" || word === "false") return { kind: "scalar", value: word === "true" };
      if (word === "null") return { kind: "scalar", value: null };
      if (word === "set" && this.#isMark("(")) {
        this.#list("(", ")", () => this.#expr(0));
        return { kind: "set", items: [] };
      }
      if (KEYWORDS.has(word)) throw problem(line, `${word} cannot stand here`);
      return { kind: "name", name: word, line };
    }
    if (word === "-" && this.#next.kind === "number") return { kind: "scalar", value: -Number(this.#take().text) };
    if (word === "(") {
      const inside = this.#expr(0);
      this.#take(")");
      return inside;
    }
    if (word === "[") return this.#array();
    if (word === "{") return this.#braces();
    throw problem(line, `${JSON.stringify(word)} cannot stand here`);
  }

  /** Behind the bracket. The head of a comprehension is no union of sets. */
  #array(): Expr {
    if (this.#skip("]")) return { kind: "array", items: [] };
    const head = this.#item();
    if (this.#skip("|")) {
      const body = this.#body("]");
      this.#take("]");
      return { kind: "comprehension", makes: "array", head, body };
    }
    return { kind: "array", items: [head, ...this.#rest("]")] };
  }

  #braces(): Expr {
    if (this.#skip("}")) return { kind: "object", entries: [] };
    const head = this.#item();
    if (this.#skip(":")) return this.#object(head);
    if (this.#skip("|")) {
      const body = this.#body("}");
      this.#take("}");
      return { kind: "comprehension", makes: "set", head, body };
    }
    return { kind: "set", items: [head, ...this.#rest("}")] };
  }

  #object(key: Expr): Expr {
    const value = this.#item();
    if (this.#skip("|")) {
      const body = this.#body("}");
      this.#take("}");
      return { kind: "comprehension", makes: "object", key, head: value, body };
    }
    const entries: [Expr, Expr][] = [[key, value]];
    while (!this.#skip("}")) {
      this.#take(",");
      if (this.#skip("}")) break;
      const next = this.#item();
      this.#take(":");
      entries.push([next, this.#item()]);
    }
    return { kind: "object", entries };
  }

  /** Without "|", which begins a comprehension's body here. */
  #item(): Expr {
    const level = OPERATORS.findIndex((operators) => operators.includes("|")) + 1;
    return this.#expr(level);
  }

  #rest(end: string): Expr[] {
    const items: Expr[] = [];
    while (!this.#skip(end)) {
      this.#take(",");
      if (this.#skip(end)) break;
      items.push(this.#item());
    }
    return items;
  }

  #list<T>(begin: string, end: string, one: () => T): T[] {
    this.#take(begin);
    const items: T[] = [];
    while (!this.#skip(end)) {
      if (items.length > 0) this.#take(",");
      if (this.#skip(end)) break;
      items.push(one());
    }
    return items;
  }

  #dotted(): string {
    const parts = [this.#name().text];
    while (this.#skip(".")) parts.push(this.#take().text);
    return parts.join(".");
  }

  #name(): Token {
    if (this.#next.kind !== "name") throw this.#unexpected("a name must stand here");
    return this.#take();
  }

  get #next(): Token {
    // The last is never taken.
    return this.#tokens[this.#at] as Token;
  }

  get #last(): Token {
    return this.#tokens[Math.max(0, this.#at - 1)] as Token;
  }

  #is(word: string): boolean {
    return this.#next.kind === "name" && this.#next.text === word;
  }

  #isMark(mark: string): boolean {
    return this.#next.kind === "mark" && this.#next.text === mark;
  }

  #skip(word: string): boolean {
    if (!this.#is(word) && !this.#isMark(word)) return false;
    this.#at++;
    return true;
  }

  #take(word?: string): Token {
    const token = this.#next;
    if (token.kind === "end" || (word !== undefined && !this.#is(word) && !this.#isMark(word)))
      throw this.#unexpected(word === undefined ? "more must follow" : `${JSON.stringify(word)} must stand here`);
    this.#at++;
    return token;
  }

  #unexpected(what: string): PolicyError {
    return problem(
      this.#next.line,
      `${what}, not ${this.#next.kind === "end" ? "the end" : JSON.stringify(this.#next.text)}`,
    );
  }
}

const text = (value: string): Expr => ({ kind: "scalar", value });

/** Of a function's name, as in regex.match. */
function pathOf(expr: Expr, line: number): string {
  if (expr.kind === "name") return expr.name;
  if (expr.kind === "index" && expr.by.kind === "scalar") return `${pathOf(expr.of, line)}.${String(expr.by.value)}`;
  throw problem(line, "what is called is no function");
}

function isConstant(expr: Expr): boolean {
  switch (expr.kind) {
    case "scalar":
      return true;
    case "array":
    case "set":
      return expr.items.every(isConstant);
    case "object":
      return expr.entries.every(([key, value]) => isConstant(key) && isConstant(value));
    default:
      return false;
  }
}
