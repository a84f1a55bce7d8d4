/** What a try-out has: a directory of its own, programs that run below it, and what it says of each. */
import { type ChildProcess, spawn } from "node:child_process";
import { createWriteStream, mkdtempSync, readFileSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";

export const REPOSITORY = new URL("../..", import.meta.url).pathname.replace(/\/$/, "");

export interface Ended {
  readonly status: number;
  /** Standard output. */
  readonly out: string;
  /** Standard error. */
  readonly err: string;
  /** Both outputs, as they came. */
  readonly all: string;
  readonly ms: number;
}

/** Of one thing that was tried. */
export interface Outcome {
  readonly what: string;
  readonly works: boolean;
  /** In a few words; of what failed, why. */
  readonly summary: string;
  readonly ms: number;
  /** The command as a person would write it, and what it printed. */
  readonly shown?: { readonly command: string; readonly output: string };
}

/** Runs it to its end. */
export async function run(argv: readonly string[], env: NodeJS.ProcessEnv = process.env): Promise<Ended> {
  const [program = "", ...args] = argv;
  const began = performance.now();
  const child = spawn(program, args, { stdio: ["ignore", "pipe", "pipe"], env });
  let [out, err, all] = ["", "", ""];
  child.stdout.on("data", (chunk: Buffer) => {
    out += chunk.toString();
    all += chunk.toString();
  });
  child.stderr.on("data", (chunk: Buffer) => {
    err += chunk.toString();
    all += chunk.toString();
  });
  const { promise, resolve } = Promise.withResolvers<number>();
  child.once("error", (error) => {
    err += error.message;
    all += error.message;
    resolve(127);
  });
  child.once("close", (code, signal) => resolve(code ?? (signal === null ? 1 : 128)));
  const status = await promise;
  return { status, out, err, all, ms: performance.now() - began };
}

export class Trial {
  readonly dir = mkdtempSync(join(tmpdir(), "berth-try-gpu-"));
  readonly outcomes: Outcome[] = [];
  readonly #running: ChildProcess[] = [];

  path(...names: string[]): string {
    return join(this.dir, ...names);
  }

  /** Starts it; resolves when its output has `ready`. Rejects with what it said, when it ends before. */
  async start(name: string, argv: readonly string[], ready: string, env: NodeJS.ProcessEnv): Promise<void> {
    const [program = "", ...args] = argv;
    const child = spawn(program, args, { stdio: ["ignore", "pipe", "pipe"], env });
    this.#running.push(child);
    const log = createWriteStream(this.path(`${name}.log`));
    const { promise, resolve, reject } = Promise.withResolvers<void>();
    let output = "";
    for (const stream of [child.stdout, child.stderr]) {
      stream.pipe(log, { end: false });
      stream.on("data", (chunk: Buffer) => {
        output += chunk.toString();
        if (output.includes(ready)) resolve();
      });
    }
    child.once("error", reject);
    child.once("exit", (code, signal) => {
      log.end();
      reject(new Error(`${name} ended (${code ?? signal}): ${output.trim().slice(-2000)}`));
    });
    await promise;
  }

  /** Records what came of it, and goes on whatever that was. */
  async try(what: string, attempt: () => Promise<Omit<Outcome, "what" | "works">>): Promise<void> {
    const began = performance.now();
    try {
      this.outcomes.push({ what, works: true, ...(await attempt()) });
    } catch (error) {
      const summary = (error as Error).message.trim();
      this.outcomes.push({ what, works: false, summary, ms: performance.now() - began });
    }
    const last = this.outcomes.at(-1);
    process.stderr.write(`${last?.works ? "ok  " : "FAIL"}  ${what}: ${last?.summary.split("\n", 1)[0]}\n`);
  }

  /** Ends what was started, the last first, and takes the directory away. Answers what it could not take away. */
  async clean(): Promise<string[]> {
    for (const child of this.#running.reverse()) await ended(child);
    await run(["umount", this.path("netns")]);
    const left = readFileSync("/proc/self/mountinfo", "utf8")
      .split("\n")
      .flatMap((line) => line.split(" ")[4] ?? [])
      .filter((path) => path.startsWith(`${this.dir}/`));
    if (left.length === 0) rmSync(this.dir, { recursive: true, force: true });
    return left;
  }
}

async function ended(child: ChildProcess): Promise<void> {
  if (child.exitCode !== null || child.signalCode !== null) return;
  const { promise, resolve } = Promise.withResolvers<void>();
  child.once("exit", () => resolve());
  child.kill("SIGTERM");
  await promise;
}
