/**
 * The real Hand: one `bosun serve` for as long as this process lives. This file is the only one of berth that may import
 * node:child_process: a fork of Node blocks its loop for milliseconds, so it happens once.
 */
import { spawn, type ChildProcess } from "node:child_process";
import { mkdir } from "node:fs/promises";
import { join, resolve } from "node:path";
import { createInterface } from "node:readline";
import { AskingHand } from "./calls.ts";
import type { Connection } from "./client.ts";
import { greet } from "./connections.ts";
import { HandLost } from "./errors.ts";
import type { Hand } from "./hand.ts";

const READY_MS = 10_000;
/** Longer than serve takes to wind up: monitors that are being made have ten seconds to undo themselves. */
const CLOSE_MS = 12_000;
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

class ServedHand extends AskingHand {
  readonly #options: HandOptions;
  #serving: Promise<Serving> | undefined;
  #closed = false;

  constructor(options: HandOptions) {
    const state = resolve(options.state);
    super(join(state, "serve.sock"));
    this.#options = { ...options, bosun: resolve(options.bosun), state };
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

  protected override async connected(): Promise<Connection> {
    return (await this.connect()).connection;
  }

  override async close(): Promise<void> {
    this.#closed = true;
    const serving = await this.#serving?.catch(() => undefined);
    if (serving === undefined) return;
    serving.connection.close();
    serving.process.stdin?.end();
    const timer = setTimeout(() => serving.process.kill("SIGKILL"), CLOSE_MS);
    await serving.exited;
    clearTimeout(timer);
  }

  async #start(): Promise<Serving> {
    await mkdir(this.#options.state, { recursive: true, mode: 0o711 });
    // serve ends when its stdin does: it cannot outlive this process. In a session of its own it is not hit by the
    // terminal's Ctrl-C, which is for this process to take as it likes.
    const child = spawn(this.#options.bosun, ["serve", this.socket], {
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
      const connection = await greet(this.socket);
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
