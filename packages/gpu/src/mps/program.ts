/** Other programs, run to their end. */
import { spawn } from "node:child_process";
import { closeSync, fstatSync, mkdtempSync, openSync, readSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";

export interface RunOptions {
  /** Beside this process's own. */
  readonly env?: Readonly<Record<string, string>>;
  /** Its standard input. */
  readonly input?: string;
  /** ms, after which it is killed. */
  readonly timeoutMs?: number;
}

const TIMEOUT_MS = 30_000;

/** Resolves what it wrote to either output. Rejects where it cannot be started, fails, or takes too long. */
export async function run(program: string, args: readonly string[], options: RunOptions = {}): Promise<string> {
  // A file and no pipe: a daemon that the program leaves behind has it open for as long as it lives.
  const output = unnamedFile();
  try {
    const how = await ended(program, args, options, output);
    const said = contents(output).trim();
    if (how === undefined) return said;
    throw new Error(`${[program, ...args].join(" ")}: ${how}${said === "" ? "" : `: ${said}`}`);
  } finally {
    closeSync(output);
  }
}

/** Resolves undefined when it succeeds, else how it did not. */
async function ended(
  program: string,
  args: readonly string[],
  { env = {}, input = "", timeoutMs = TIMEOUT_MS }: RunOptions,
  output: number,
): Promise<string | undefined> {
  const child = spawn(program, args, {
    env: { ...process.env, ...env },
    stdio: ["pipe", output, output],
    timeout: timeoutMs,
    killSignal: "SIGKILL",
  });
  const { promise, resolve } = Promise.withResolvers<string | undefined>();
  child.on("error", (error) =>
    resolve((error as NodeJS.ErrnoException).code === "ENOENT" ? "not found" : error.message),
  );
  child.on("exit", (code, signal) => {
    if (code === 0) resolve(undefined);
    else if (signal === null) resolve(`exit status ${code}`);
    else resolve(signal === "SIGKILL" ? `killed, perhaps as it took ${timeoutMs} ms` : signal);
  });
  // One that ends before it has read all is judged by its status.
  child.stdin?.on("error", () => {});
  child.stdin?.end(input);
  return await promise;
}

function unnamedFile(): number {
  const dir = mkdtempSync(join(tmpdir(), "berth-run-"));
  try {
    return openSync(join(dir, "output"), "w+");
  } finally {
    rmSync(dir, { recursive: true });
  }
}

function contents(file: number): string {
  const bytes = Buffer.alloc(fstatSync(file).size);
  return bytes.toString("utf8", 0, readSync(file, bytes, 0, bytes.length, 0));
}
