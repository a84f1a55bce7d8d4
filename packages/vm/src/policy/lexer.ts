/** The words of a policy in Rego, with where each is. */

export type TokenKind = "name" | "number" | "string" | "mark" | "end";

export interface Token {
  readonly kind: TokenKind;
  /** A string's own letters, without quotes and escapes. */
  readonly text: string;
  readonly line: number;
  /** Whether a line ended since the word before. */
  readonly first: boolean;
  /** Whether anything stands between it and the word before. */
  readonly apart: boolean;
}

/** What of a policy cannot be understood or carried out; the message begins with the line. */
export class PolicyError extends Error {
  override readonly name = "PolicyError";
}

export const problem = (line: number, message: string): PolicyError => new PolicyError(`line ${line}: ${message}`);

const SPACE = /[ \t\r]+|#[^\n]*/y;
const NAME = /[A-Za-z_]\w*/y;
const NUMBER = /\d+(?:\.\d+)?(?:[eE][+-]?\d+)?/y;
const STRING = /"(?:[^"\\\n]|\\.)*"/y;
const RAW = /`[^`]*`/y;
const MARK = /:=|==|!=|<=|>=|[{}[\](),;:|&.=<>+\-*/%]/y;

/** Throws PolicyError. The last is of kind "end". */
export function tokensOf(text: string): Token[] {
  const tokens: Token[] = [];
  let [at, line, first, apart] = [0, 1, true, true];
  const match = (pattern: RegExp): string | undefined => {
    pattern.lastIndex = at;
    return pattern.exec(text)?.[0];
  };
  while (at < text.length) {
    const space = match(SPACE) ?? (text[at] === "\n" ? "\n" : undefined);
    if (space !== undefined) {
      at += space.length;
      apart = true;
      if (space === "\n") [line, first] = [line + 1, true];
      continue;
    }
    const found = wordAt(match);
    if (!found) throw problem(line, `${JSON.stringify(text.slice(at, at + 10))} is not Rego`);
    tokens.push({ kind: found.kind, text: unquoted(found, line), line, first, apart });
    at += found.text.length;
    line += found.text.split("\n").length - 1;
    [first, apart] = [false, false];
  }
  tokens.push({ kind: "end", text: "the end", line, first: true, apart: true });
  return tokens;
}

function wordAt(match: (pattern: RegExp) => string | undefined): { kind: TokenKind; text: string } | undefined {
  const kinds: readonly [TokenKind, RegExp][] = [
    ["name", NAME],
    ["number", NUMBER],
    ["string", STRING],
    ["string", RAW],
    ["mark", MARK],
  ];
  for (const [kind, pattern] of kinds) {
    const text = match(pattern);
    if (text !== undefined) return { kind, text };
  }
  return undefined;
}

function unquoted({ kind, text }: { kind: TokenKind; text: string }, line: number): string {
  if (kind !== "string") return text;
  if (text.startsWith("`")) return text.slice(1, -1);
  try {
    return JSON.parse(text.replaceAll("\t", "\\t")) as string;
  } catch {
    throw problem(line, `${text} has an escape that is none of JSON's`);
  }
}
