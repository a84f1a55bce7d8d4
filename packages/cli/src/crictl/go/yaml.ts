/** sigs.k8s.io/yaml: JSON as YAML, keys in order, lists not indented, quotes only where a plain word would be read as something else. */
import { Document, Scalar, visit } from "yaml";
import type { Json } from "./json.ts";

/** What YAML 1.1 reads as something other than a string (go-yaml's resolve.go). */
const OTHER =
  /^(|~|null|Null|NULL|true|True|TRUE|false|False|FALSE|y|Y|yes|Yes|YES|on|On|ON|n|N|no|No|NO|off|Off|OFF|<<|[-+]?(\.inf|\.Inf|\.INF)|\.nan|\.NaN|\.NAN)$/;
const NUMBER =
  /^[-+]?(0b[01_]+|0x[\da-fA-F_]+|0o?[0-7_]+|[\d][\d_]*|([\d][\d_]*)?\.?[\d_]+([eE][-+]?\d+)?|[\d_]+\.[\d_]*([eE][-+]?\d+)?|[\d]+(:[0-5]?\d)+(\.\d*)?)$/;
const DATE = /^\d{4}-\d{1,2}-\d{1,2}([Tt ].*)?$/;

export function goYaml(value: Json): string {
  const document = new Document(naturally(value));
  visit(document, {
    Scalar(_key, node) {
      if (typeof node.value !== "string") return;
      if (node.value.includes("\n")) node.type = Scalar.BLOCK_LITERAL;
      else if (OTHER.test(node.value) || NUMBER.test(node.value) || DATE.test(node.value))
        node.type = Scalar.QUOTE_DOUBLE;
    },
  });
  return fold(document.toString({ lineWidth: 0, indentSeq: false, singleQuote: true, flowCollectionPadding: false }));
}

function naturally(value: Json): Json {
  if (Array.isArray(value)) return value.map(naturally);
  if (value === null || typeof value !== "object") return value;
  const entries = Object.entries(value as { readonly [key: string]: Json });
  return Object.fromEntries(
    entries.toSorted(([a], [b]) => compareKeys(a, b)).map(([key, item]) => [key, naturally(item)]),
  );
}

const isLetter = (char: string): boolean => /\p{L}/u.test(char);

/** go-yaml's order: numbers by what they count, letters after everything else. */
function compareKeys(a: string, b: string): number {
  let at = 0;
  while (at < a.length && at < b.length && a[at] === b[at]) at++;
  const [left, right] = [a.charAt(at), b.charAt(at)];
  if (left === "" || right === "") return a.length - b.length;
  if (isLetter(left) && isLetter(right)) return left < right ? -1 : 1;
  if (isLetter(left) || isLetter(right)) return isLetter(right) ? -1 : 1;
  const [number, other] = [a, b].map((key) => /^\d*/.exec(key.slice(at))?.[0] ?? "");
  return Number(number) - Number(other) || (left < right ? -1 : 1);
}

/** Columns after which the emitter breaks a scalar, at the next single space. */
const WIDTH = 80;

function fold(text: string): string {
  /** Of the key or item whose literal block is being passed. */
  let literal: number | undefined;
  return text
    .split("\n")
    .map((line) => {
      const indent = line.search(/\S/);
      if (literal !== undefined && (indent > literal || indent < 0)) return line;
      const [, marks = ""] = /^\s*((?:- )*)/.exec(line) ?? [];
      const key = /^(?:[^\s"'].*?|"[^"]*"|'[^']*'):(?= )/.exec(line.slice(indent + marks.length)) !== null;
      const own = indent + marks.length - (key ? 0 : 2);
      literal = /[ :]\|[-+]?\d*$|^\s*(- )*\|[-+]?$/.test(line) ? own : undefined;
      return literal === undefined ? foldLine(line, " ".repeat(Math.max(0, own + 2))) : line;
    })
    .join("\n");
}

function foldLine(line: string, indent: string): string {
  for (let at = WIDTH + 1; at < line.length - 1; at++) {
    if (line[at] === " " && line[at - 1] !== " " && line[at + 1] !== " ")
      return `${line.slice(0, at)}\n${foldLine(indent + line.slice(at + 1), indent)}`;
  }
  return line;
}
