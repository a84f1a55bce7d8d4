/**
 * The real Hand: one `bosun serve` for as long as this process lives. This file is the only one of berth that may import
 * node:child_process: a fork of Node blocks its loop for milliseconds, so it happens once.
 */
import { spawn, type ChildProcess } from "node:child_process";
import { mkdir } from "node:fs/promises";
import type { Socket } from "node:net";
import { join, resolve } from "node:path";
import { createInterface } from "node:readline";
import { decodeOutputs, encodePlan, type AnyMessage, type MessageFields } from "../orders/encode.ts";
import type { MessageName } from "../orders/messages.ts";
import type { Plan } from "../orders/plan.ts";
import { expect } from "./answers.ts";
import type { Connection } from "./client.ts";
import { HandLost } from "./errors.ts";
import type {
  CallOptions,
  Command,
  CommandResult,
  Created,
  Hand,
  MonitorRequest,
  Outputs,
  TreeWriter,
} from "./hand.ts";
import { dial, greet, openTree } from "./connections.ts";

const READY_MS = 10_000;
/** Longer than serve takes to wind up: monitors that are being made have ten seconds to undo themselves. */
const CLOSE_MS = 12_000;
const DEFAULT_OUTPUT_LIMIT = 1 << 20;
const DEFAULT_MAX_LINE = 16_384;
const STDERR_KEPT = 4_096;

export interface HandOptions {
  /** The bosun binary. */
  readonly bosun: string;
  /** Directory of serve.sock; made when it is not there. */
  readonly state: string;
  /** What serve says on its standard error, line by line. */
  readonly log?: ((line: string) => void) | undefined;
}

/** Starts `bosun serve`, and a new one for the next call whenever it is lost. Rejects with HandLost if it does not come up. */
export async function startHand(options: HandOptions): Promise<Hand> {
  const hand = new ServedHand(options);
  await hand.connect();
  return hand;
}

/** One running serve and the connection to it. */
interface Serving {
  readonly process: ChildProcess;
  readonly exited: Promise<void>;
  readonly connection: Connection;
}

class ServedHand implements Hand {
  readonly #options: HandOptions;
  readonly #socket: string;
  #serving: Promise<Serving> | undefined;
  #closed = false;

  constructor(options: HandOptions) {
    this.#options = { ...options, bosun: resolve(options.bosun), state: resolve(options.state) };
    this.#socket = join(this.#options.state, "serve.sock");
  }

  /** The running serve; a new one if there is none. Concurrent callers share one start. */
  async connect(): Promise<Serving> {
    if (this.#closed) throw new HandLost("bosun serve: the hand was closed");
    const serving = (this.#serving ??= this.#start());
    try {
      const up = await serving;
      if (up.connection.isOpen) return up;
    } catch (error) {
      if (this.#serving === serving) this.#serving = undefined;
      throw error;
    }
    if (this.#serving === serving) this.#serving = undefined;
    return await this.connect();
  }

  async run(plan: Plan, options?: CallOptions): Promise<Outputs> {
    const answer = await this.#request("run", { plan: encodePlan(plan) }, options);
    return decodeOutputs(expect(answer, "report", "plan", plan).outputs);
  }

  async spawn(command: Command, options?: CallOptions): Promise<CommandResult> {
    const { argv, env, cwd = "/", stdin = new Uint8Array(), limit = DEFAULT_OUTPUT_LIMIT } = command;
    const fields = { argv, env: Object.entries(env).map(([name, value]) => `${name}=${value}`), cwd, stdin, limit };
    const answer = expect(await this.#request("spawn", fields, options), "spawned", `run ${argv[0] ?? ""}`);
    const { status, signal, stdout, stderr, truncated } = answer;
    return { status, signal, stdout, stderr, truncated: truncated !== 0 };
  }

  async monitor(request: MonitorRequest, options?: CallOptions): Promise<Created> {
    const { plan } = request;
    const created = expect(await this.#request("monitor", monitorFields(request), options), "created", "monitor", plan);
    const { monitorPid, pid, pidStart, createdAt, outputs } = created;
    return { monitorPid, pid, pidStart, createdAt, outputs: decodeOutputs(outputs) };
  }

  async tree(path: string, options?: CallOptions): Promise<TreeWriter> {
    await this.connect();
    return await openTree(this.#socket, path, options);
  }

  async dial(netns: string, port: number, options?: CallOptions): Promise<Socket> {
    await this.connect();
    return await dial(this.#socket, netns, port, options);
  }

  async close(): Promise<void> {
    this.#closed = true;
    const serving = await this.#serving?.catch(() => undefined);
    if (serving === undefined) return;
    serving.connection.close();
    serving.process.stdin?.end();
    const timer = setTimeout(() => serving.process.kill("SIGKILL"), CLOSE_MS);
    await serving.exited;
    clearTimeout(timer);
  }

  async #request<N extends MessageName>(name: N, fields: MessageFields<N>, options?: CallOptions): Promise<AnyMessage> {
    options?.signal?.throwIfAborted();
    return await (await this.connect()).connection.request(name, fields, options);
  }

  async #start(): Promise<Serving> {
    await mkdir(this.#options.state, { recursive: true, mode: 0o711 });
    // serve ends when its stdin does: it cannot outlive this process. In a session of its own it is not hit by the
    // terminal's Ctrl-C, which is for this process to take as it likes.
    const child = spawn(this.#options.bosun, ["serve", this.#socket], {
      stdio: ["pipe", "pipe", "pipe"],
      cwd: "/",
      detached: true,
    });
    const exited = Promise.withResolvers<void>();
    const said = this.#listen(child);
    child.once("close", () => exited.resolve());
    // A write to a serve that has gone is told by its exit.
    child.stdin?.on("error", () => {});
    try {
      await ready(child, said);
      const connection = await greet(this.#socket);
      child.once("exit", (code, signal) => connection.close(`it ended (${signal ?? `status ${code}`})`));
      return { process: child, exited: exited.promise, connection };
    } catch (error) {
      child.kill("SIGKILL");
      throw error;
    }
  }

  /** Passes serve's stderr on, and keeps the end of it for errors. */
  #listen(child: ChildProcess): () => string {
    let kept = "";
    if (child.stderr !== null) {
      createInterface({ input: child.stderr }).on("line", (line) => {
        kept = `${kept}${line}\n`.slice(-STDERR_KEPT);
        this.#options.log?.(line);
      });
    }
    return () => kept.trim();
  }
}

function monitorFields(request: MonitorRequest): MessageFields<"monitor"> {
  const {
    dir,
    plan,
    logPath = "",
    maxLine = DEFAULT_MAX_LINE,
    terminal,
    stdin = false,
    stdinOnce = false,
    oom,
    subreaper = false,
  } = request;
  return {
    dir,
    logPath,
    maxLine,
    terminal: terminal === undefined ? 0 : 1,
    rows: terminal?.rows ?? 0,
    columns: terminal?.columns ?? 0,
    stdin: stdin ? 1 : 0,
    stdinOnce: stdinOnce ? 1 : 0,
    oomFile: oom?.file ?? "",
    oomKey: oom?.key ?? "",
    subreaper: subreaper ? 1 : 0,
    plan: encodePlan(plan),
  };
}

/** Waits for the line "ready", raced against the process's end. Rejects with HandLost. */
async function ready(child: ChildProcess, said: () => string): Promise<void> {
  const { promise, resolve, reject } = Promise.withResolvers<void>();
  const timer = setTimeout(
    () => reject(new HandLost(`bosun serve was not ready within ${READY_MS} ms${because(said())}`)),
    READY_MS,
  );
  child.once("error", (error) => reject(new HandLost(`bosun serve could not be started: ${error.message}`)));
  child.once("close", (code, signal) =>
    reject(new HandLost(`bosun serve ended (${signal ?? `status ${code}`}) before it was ready${because(said())}`)),
  );
  if (child.stdout !== null) {
    createInterface({ input: child.stdout }).on("line", (line) => {
      if (line === "ready") resolve();
    });
  }
  try {
    await promise;
  } finally {
    clearTimeout(timer);
  }
}

function because(said: string): string {
  return said === "" ? "" : `: ${said}`;
}
