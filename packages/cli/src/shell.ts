/** What a command sees of the process it runs in; tests give another one. */
import { spawn, spawnSync } from "node:child_process";
import type { EventEmitter } from "node:events";
import type { Readable, Writable } from "node:stream";

export interface Input extends Readable {
  readonly isTTY?: boolean;
}

export interface Output extends Writable {
  readonly isTTY?: boolean;
  readonly columns?: number;
  readonly rows?: number;
}

export interface Shell {
  readonly stdin: Input;
  readonly stdout: Output;
  readonly stderr: Output;
  readonly env: Readonly<Record<string, string | undefined>>;
  readonly cwd: string;
  /** Emits "SIGINT", "SIGTERM" and "SIGHUP"; as long as nobody listens, each has its usual effect. */
  readonly signals: Pick<EventEmitter, "on" | "off">;
  /** Until disposed, what is typed at stdin and printed on stdout passes untouched; only where stdin is a terminal. */
  rawTerminal(): Disposable;
  /** Runs another program to its end (a credential helper). Rejects where it cannot be run. */
  run(argv: readonly [string, ...string[]], stdin: string): Promise<Ran>;
}

export interface Ran {
  readonly status: number;
  readonly stdout: string;
  readonly stderr: string;
}

export const processShell = (): Shell => ({
  stdin: process.stdin,
  stdout: process.stdout,
  stderr: process.stderr,
  env: process.env,
  cwd: process.cwd(),
  signals: process,
  rawTerminal,
  run,
});

async function run([program, ...args]: readonly [string, ...string[]], stdin: string): Promise<Ran> {
  const child = spawn(program, args, { stdio: "pipe" });
  const collected = { stdout: "", stderr: "" };
  for (const name of ["stdout", "stderr"] as const)
    child[name].setEncoding("utf8").on("data", (text: string) => (collected[name] += text));
  const { promise, resolve, reject } = Promise.withResolvers<number>();
  child.once("error", reject).once("close", (code) => resolve(code ?? 1));
  // A helper may end without having read what it was told.
  child.stdin.on("error", () => undefined).end(stdin);
  return { status: await promise, ...collected };
}

/**
 * Node's raw mode still turns each "\n" of the output into "\r\n" (libuv sets ONLCR), which spoils what full-screen programs
 * draw: their own terminal has done that already. stty(1) takes it away; Node's way back to the first state undoes both.
 */
function rawTerminal(): Disposable {
  process.stdin.setRawMode(true);
  const { error, status } = spawnSync("stty", ["-opost"], { stdio: ["inherit", "ignore", "ignore"] });
  if (error || status !== 0)
    process.stderr.write(
      `berth: stty -opost failed (${error?.message ?? `exit code ${status}`}): full-screen programs may look wrong\r\n`,
    );
  return { [Symbol.dispose]: () => void process.stdin.setRawMode(false) };
}

export const printLine = (shell: Shell, line: string): void => void shell.stdout.write(`${line}\n`);
export const warn = (shell: Shell, message: string): void => void shell.stderr.write(`berth: ${message}\n`);
