/** Log lines on stderr as crictl's logger writes them: key=value for files, coloured for a terminal. */
import type { Shell } from "../shell.ts";
import { rfc3339 } from "./go/time.ts";

export type Level = "debug" | "info" | "warning" | "error";

const COLOURS: Readonly<Record<Level, number>> = { debug: 37, info: 36, warning: 33, error: 31 };
const began = performance.now();

export function log(shell: Shell, level: Level, message: string): void {
  if (shell.stderr.isTTY) {
    const seconds = String(Math.trunc((performance.now() - began) / 1000)).padStart(4, "0");
    const name = level.slice(0, 4).toUpperCase();
    shell.stderr.write(`\x1b[${COLOURS[level]}m${name}\x1b[0m[${seconds}] ${message.padEnd(44)} \n`);
    return;
  }
  const now = rfc3339(BigInt(Math.trunc(Date.now() / 1000)) * 1_000_000_000n);
  shell.stderr.write(`time="${now}" level=${level} msg=${quoted(message)}\n`);
}

const quoted = (text: string): string => (/^[a-zA-Z0-9\-._/@^+]*$/.test(text) ? text : JSON.stringify(text));
