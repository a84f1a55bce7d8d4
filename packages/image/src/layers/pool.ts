/**
 * Worker threads that do what would block the daemon's loop: HTTP, inflating, hashing, unpacking. Each does one job at a
 * time; an idle one is ended.
 */
import { availableParallelism } from "node:os";
import { Worker } from "node:worker_threads";
import { canceled, fromPlain, ImageError, type PlainError } from "../errors.ts";
import type { JobName, JobProgress, Jobs } from "./jobs.ts";

export interface RunOptions {
  readonly signal?: AbortSignal | undefined;
  readonly progress?: ((progress: JobProgress) => void) | undefined;
  /** What an "archive" job reads. */
  readonly input?: AsyncIterable<Uint8Array> | undefined;
}

export type ToWorker =
  | { readonly type: "job"; readonly name: JobName; readonly request: unknown }
  | { readonly type: "abort"; readonly reason: PlainError }
  | { readonly type: "chunk"; readonly bytes: Uint8Array }
  | { readonly type: "end" };

export type FromWorker =
  | { readonly type: "progress"; readonly progress: JobProgress }
  /** The worker wants the next chunk. */
  | { readonly type: "more" }
  | { readonly type: "done"; readonly result: unknown }
  | { readonly type: "failed"; readonly error: PlainError };

const IDLE = 10_000;
/** An aborted job that has not ended after so long is ended with its worker. */
const ABORT_GRACE = 3_000;
/** Buffers are outside these heaps; what is in them is one layer's names. */
const RESOURCE_LIMITS = { maxOldGenerationSizeMb: 512, maxYoungGenerationSizeMb: 4 };

export class WorkerPool {
  readonly #max: number;
  readonly #idle: Worker[] = [];
  readonly #timers = new Map<Worker, NodeJS.Timeout>();
  readonly #waiting: (() => void)[] = [];
  readonly #all = new Set<Worker>();
  #busy = 0;
  #closed = false;

  /** One more than the layers that are unpacked at a time, so that a manifest never waits for a layer. */
  constructor(max: number = Math.max(3, availableParallelism()) + 1) {
    this.#max = max;
  }

  /** Rejects with ImageError; after an abort, once the job has ended. */
  async run<N extends JobName>(
    name: N,
    request: Jobs[N]["request"],
    options: RunOptions = {},
  ): Promise<Jobs[N]["result"]> {
    await this.#slot(options.signal);
    const worker = this.#take();
    try {
      return (await converse(worker, name, request, options)) as Jobs[N]["result"];
    } finally {
      this.#busy--;
      this.#put(worker);
      this.#waiting.shift()?.();
    }
  }

  /** Starts workers ahead of the jobs that will want them: a thread takes some 100 ms to load its modules. */
  warm(count: number): void {
    for (let have = this.#all.size; have < Math.min(count, this.#max) && !this.#closed; have++)
      this.#put(this.#start());
  }

  async close(): Promise<void> {
    this.#closed = true;
    for (const timer of this.#timers.values()) clearTimeout(timer);
    await Promise.all([...this.#all].map((worker) => worker.terminate()));
  }

  async #slot(signal: AbortSignal | undefined): Promise<void> {
    while (this.#busy >= this.#max) await new Promise<void>((resolve) => this.#waiting.push(resolve));
    if (this.#closed) throw new ImageError("Canceled", "the image store is closed");
    if (signal?.aborted === true) {
      this.#waiting.shift()?.();
      throw canceled(signal, "pull");
    }
    this.#busy++;
  }

  #take(): Worker {
    const idle = this.#idle.pop();
    if (idle !== undefined) {
      clearTimeout(this.#timers.get(idle));
      this.#timers.delete(idle);
      idle.ref();
      return idle;
    }
    return this.#start();
  }

  #start(): Worker {
    const worker = new Worker(new URL("./worker.ts", import.meta.url), {
      name: "berth-layers",
      resourceLimits: RESOURCE_LIMITS,
    });
    this.#all.add(worker);
    // Before the listeners of a job: by the time that one hears of it, the worker is no longer to be had.
    for (const event of ["error", "exit"]) worker.on(event, () => this.#lose(worker));
    return worker;
  }

  #lose(worker: Worker): void {
    this.#all.delete(worker);
    clearTimeout(this.#timers.get(worker));
    this.#timers.delete(worker);
    const at = this.#idle.indexOf(worker);
    if (at >= 0) this.#idle.splice(at, 1);
  }

  #put(worker: Worker): void {
    if (!this.#all.has(worker) || this.#closed) return;
    worker.unref();
    this.#idle.push(worker);
    const timer = setTimeout(() => {
      this.#timers.delete(worker);
      this.#idle.splice(this.#idle.indexOf(worker), 1);
      void worker.terminate();
    }, IDLE);
    this.#timers.set(worker, timer.unref());
  }
}

function converse(
  worker: Worker,
  name: JobName,
  request: unknown,
  { signal, progress, input }: RunOptions,
): Promise<unknown> {
  const chunks = input?.[Symbol.asyncIterator]();
  return new Promise((resolve, reject) => {
    let grace: NodeJS.Timeout | undefined;
    let finished = false;
    const finish = (settle: () => void): void => {
      finished = true;
      clearTimeout(grace);
      signal?.removeEventListener("abort", abort);
      worker.off("message", heard).off("error", broke).off("exit", ended);
      if (chunks?.return !== undefined) void Promise.resolve(chunks.return(undefined)).catch(() => undefined);
      settle();
    };
    // A chunk that comes late must not reach the worker's next job.
    const post = (message: ToWorker, transfer: ArrayBuffer[] = []): void => {
      if (!finished) worker.postMessage(message, transfer);
    };
    const abort = (): void => {
      const error = canceled(signal as AbortSignal, "pull");
      post({ type: "abort", reason: { code: error.code, message: error.message } });
      grace = setTimeout(() => void worker.terminate(), ABORT_GRACE);
    };
    const heard = (message: FromWorker): void => {
      switch (message.type) {
        case "progress":
          return progress?.(message.progress);
        case "more":
          // A stream that fails is the archive's sender's failure: the job ends, and the sender's error is what is told.
          return void feed(chunks, post).catch((error: unknown) => {
            post({
              type: "abort",
              reason: {
                code: "Canceled",
                message: `the archive's stream failed: ${error instanceof Error ? error.message : String(error)}`,
              },
            });
          });
        case "done":
          return finish(() => resolve(message.result));
        case "failed":
          return finish(() => reject(signal?.aborted === true ? canceled(signal, "pull") : fromPlain(message.error)));
      }
    };
    const broke = (error: Error): void =>
      finish(() => reject(new ImageError("Internal", `an image worker failed: ${error.message}`, { cause: error })));
    const ended = (): void =>
      finish(() =>
        reject(
          signal?.aborted === true
            ? canceled(signal, "pull")
            : new ImageError("Internal", "an image worker ended in the middle of its job"),
        ),
      );
    worker.on("message", heard).on("error", broke).on("exit", ended);
    signal?.addEventListener("abort", abort, { once: true });
    post({ type: "job", name, request });
    if (signal?.aborted === true) abort();
  });
}

async function feed(
  chunks: AsyncIterator<Uint8Array> | undefined,
  post: (message: ToWorker, transfer?: ArrayBuffer[]) => void,
): Promise<void> {
  const next = await chunks?.next();
  if (next === undefined || next.done === true) return post({ type: "end" });
  // A copy of its own: what comes may be a window on a pool that others use, and would be sent with all of it.
  const bytes = new Uint8Array(next.value);
  post({ type: "chunk", bytes }, [bytes.buffer]);
}
