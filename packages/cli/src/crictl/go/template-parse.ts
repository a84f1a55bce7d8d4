/** Go's text/template: from text to a tree. */
import { CrictlError } from "../errors.ts";

export type Expression =
  | { readonly kind: "literal"; readonly value: string | number | boolean | null }
  | { readonly kind: "dot" }
  | { readonly kind: "variable"; readonly name: string }
  | { readonly kind: "field"; readonly of: Expression; readonly names: readonly string[] }
  | { readonly kind: "call"; readonly name: string; readonly args: readonly Expression[] }
  | { readonly kind: "pipe"; readonly pipeline: Pipeline };

export interface Pipeline {
  /** `$a, $b :=` in front of it; the names with their "$". */
  readonly declares: readonly string[];
  readonly assigns: boolean;
  readonly commands: readonly Expression[];
}

export type Node =
  | { readonly kind: "text"; readonly text: string }
  | { readonly kind: "print"; readonly pipeline: Pipeline }
  | Control
  | Leaving;

export interface Control {
  readonly kind: "if" | "with" | "range";
  readonly pipeline: Pipeline;
  readonly body: readonly Node[];
  readonly otherwise: readonly Node[];
}

export interface Leaving {
  readonly kind: "break" | "continue";
}

const fail = (message: string): never => {
  throw new CrictlError(`failed to generate go-template: template: tmplExecuteRawJSON:1: ${message}`);
};

type Piece = { readonly text: string } | { readonly action: readonly string[] };

const TOKEN =
  /\s*(?:("(?:[^"\\\n]|\\.)*"|`[^`]*`|'(?:[^'\\]|\\.)+')|([-+]?(?:0x[\da-fA-F]+|\d+\.?\d*(?:[eE][-+]?\d+)?))(?![\w.])|(:=|=|\||\(|\)|,)|(\$\w*(?:\.\w+)*|(?:\.\w+)+|\.|\w+))/y;

/** "{{-" and "-}}" take the white space around them away. */
function split(source: string): Piece[] {
  const pieces: Piece[] = [];
  let rest = source;
  for (let at = rest.indexOf("{{"); at >= 0; at = rest.indexOf("{{")) {
    const trimLeft = /^\{\{-\s/.test(rest.slice(at));
    pieces.push({ text: trimLeft ? rest.slice(0, at).trimEnd() : rest.slice(0, at) });
    rest = rest.slice(at + (trimLeft ? 3 : 2));
    const comment = /^\s*\/\*[\s\S]*?\*\/(\s-)?\}\}/.exec(rest);
    const { words, used, trimRight } = comment
      ? { words: [], used: comment[0].length, trimRight: comment[1] !== undefined }
      : tokens(rest);
    if (!comment) pieces.push({ action: words });
    rest = trimRight ? rest.slice(used).trimStart() : rest.slice(used);
  }
  return [...pieces, { text: rest }];
}

function tokens(text: string): { words: string[]; used: number; trimRight: boolean } {
  const words: string[] = [];
  let at = 0;
  for (;;) {
    const end = /^(\s+-)?\s*\}\}/.exec(text.slice(at));
    if (end) return { words, used: at + end[0].length, trimRight: end[1] !== undefined };
    TOKEN.lastIndex = at;
    const found = TOKEN.exec(text);
    if (!found)
      return fail(
        at >= text.trimEnd().length
          ? "unclosed action"
          : `unexpected ${JSON.stringify(text.slice(at).trim()[0])} in command`,
      );
    words.push(found[0].trim());
    at = TOKEN.lastIndex;
  }
}

export function parseTemplate(source: string): Node[] {
  const pieces = split(source);
  const { nodes, ended } = block(pieces, { at: 0 });
  if (ended !== undefined) fail(`unexpected {{${ended[0] ?? ""}}}`);
  return nodes;
}

/** Up to the {{end}} or {{else}} that belongs to somebody above; undefined: to the end of the text. */
function block(
  pieces: readonly Piece[],
  position: { at: number },
): { nodes: Node[]; ended: readonly string[] | undefined } {
  const nodes: Node[] = [];
  while (position.at < pieces.length) {
    const piece = pieces[position.at++];
    if (!piece) break;
    if ("text" in piece) {
      if (piece.text !== "") nodes.push({ kind: "text", text: piece.text });
      continue;
    }
    const [first = "", ...rest] = piece.action;
    if (first === "end" || first === "else") return { nodes, ended: piece.action };
    if (first === "if" || first === "with" || first === "range") nodes.push(control(first, rest, pieces, position));
    else if (first === "break" || first === "continue") nodes.push({ kind: first });
    else if (first === "define" || first === "template" || first === "block")
      fail(`{{${first}}} is not supported here`);
    else nodes.push({ kind: "print", pipeline: pipeline(piece.action) });
  }
  return { nodes, ended: undefined };
}

function control(
  kind: "if" | "with" | "range",
  words: readonly string[],
  pieces: readonly Piece[],
  position: { at: number },
): Node {
  const body = block(pieces, position);
  let otherwise: readonly Node[] = [];
  if (body.ended?.[0] === "else") {
    const [, next, ...condition] = body.ended;
    if (next === "if" || next === "with") otherwise = [control(next, condition, pieces, position)];
    else {
      const below = block(pieces, position);
      if (below.ended?.[0] !== "end") fail("unexpected EOF");
      otherwise = below.nodes;
    }
  } else if (body.ended?.[0] !== "end") fail("unexpected EOF");
  return { kind, pipeline: pipeline(words), body: body.nodes, otherwise };
}

function pipeline(words: readonly string[]): Pipeline {
  const sign = words.findIndex((word) => word === ":=" || word === "=");
  const declares = sign < 0 ? [] : words.slice(0, sign).filter((word) => word !== ",");
  if (declares.some((name) => !/^\$\w+$/.test(name))) fail("only variables can be assigned to");
  const cursor = { words: sign < 0 ? words : words.slice(sign + 1), at: 0 };
  const commands = [command(cursor)];
  while (cursor.words[cursor.at] === "|") {
    cursor.at++;
    commands.push(command(cursor));
  }
  if (cursor.at < cursor.words.length) fail(`unexpected ${JSON.stringify(cursor.words[cursor.at])} in command`);
  return { declares, assigns: words[sign] === "=", commands };
}

interface Cursor {
  readonly words: readonly string[];
  at: number;
}

function command(cursor: Cursor): Expression {
  const first = operand(cursor);
  const args: Expression[] = [];
  while (cursor.at < cursor.words.length && cursor.words[cursor.at] !== "|" && cursor.words[cursor.at] !== ")")
    args.push(operand(cursor));
  if (first.kind === "call") return { ...first, args };
  if (args.length > 0) fail("can't give argument to non-function");
  return first;
}

function operand(cursor: Cursor): Expression {
  const word = cursor.words[cursor.at++];
  if (word === undefined) return fail("missing value for command");
  if (word === "(") {
    const start = cursor.at;
    for (let depth = 1; depth > 0; cursor.at++) {
      const next = cursor.words[cursor.at];
      if (next === undefined) return fail("unclosed left paren");
      depth += next === "(" ? 1 : next === ")" ? -1 : 0;
    }
    const inside: Expression = { kind: "pipe", pipeline: pipeline(cursor.words.slice(start, cursor.at - 1)) };
    return inside;
  }
  return simple(word);
}

function simple(word: string): Expression {
  if (word === ".") return { kind: "dot" };
  if (word.startsWith(".")) return { kind: "field", of: { kind: "dot" }, names: word.slice(1).split(".") };
  if (word.startsWith("$")) {
    const [name = "$", ...names] = word.split(".");
    const variable: Expression = { kind: "variable", name };
    return names.length === 0 ? variable : { kind: "field", of: variable, names };
  }
  if (word.startsWith('"')) return { kind: "literal", value: JSON.parse(word) as string };
  if (word.startsWith("`")) return { kind: "literal", value: word.slice(1, -1) };
  if (word.startsWith("'")) return { kind: "literal", value: word.codePointAt(1) ?? 0 };
  if (/^[-+\d]/.test(word)) return { kind: "literal", value: Number(word) };
  if (word === "true" || word === "false") return { kind: "literal", value: word === "true" };
  if (word === "nil") return { kind: "literal", value: null };
  return { kind: "call", name: word, args: [] };
}
