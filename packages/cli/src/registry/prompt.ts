/** Questions to a person at a terminal. */
import { createInterface } from "node:readline/promises";
import { Failure } from "../failure.ts";
import type { Shell } from "../shell.ts";

/** One line; what is typed is shown. */
export async function askLine(shell: Shell, question: string): Promise<string> {
  const lines = createInterface({ input: shell.stdin, output: shell.stderr, terminal: false });
  try {
    shell.stderr.write(question);
    for await (const line of lines) return line.trim();
    return "";
  } finally {
    lines.close();
  }
}

const ENTER = new Set(["\r", "\n"]);
const END = new Set(["\u0003", "\u0004"]);
const ERASE = new Set(["\u007f", "\b"]);

/** One line; nothing of what is typed is shown. Throws Failure at Ctrl-C. */
export async function askSecret(shell: Shell, question: string): Promise<string> {
  shell.stderr.write(question);
  using _ = shell.rawTerminal();
  let text = "";
  try {
    for await (const chunk of shell.stdin) {
      for (const character of (chunk as Buffer).toString("utf8")) {
        if (END.has(character)) throw new Failure("interrupted", 130);
        if (ENTER.has(character)) return text;
        text = ERASE.has(character) ? text.slice(0, -1) : text + character;
      }
    }
    return text;
  } finally {
    shell.stderr.write("\r\n");
  }
}
