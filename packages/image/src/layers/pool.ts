/**
 * Worker threads that do what would block the daemon's loop: HTTP, inflating, hashing, unpacking. Each does several jobs at
 * a time, as most of a job is waiting for a registry, the disk and zlib's threads; an idle one is ended.
 */
import { getCompileCacheDir } from "node:module";
import { availableParallelism } from "node:os";
import { dirname } from "node:path";
import { Worker } from "node:worker_threads";
import { canceled, ImageError, type PlainError } from "../errors.ts";
import { Conversation } from "./conversation.ts";
import type { JobName, JobProgress, Jobs } from "./jobs.ts";

export interface RunOptions {
  readonly signal?: AbortSignal | undefined;
  readonly progress?: ((progress: JobProgress) => void) | undefined;
  /** What an "archive" job reads. */
  readonly input?: AsyncIterable<Uint8Array> | undefined;
  /** What the job keeps a worker busy with, in all but a few of them: HEAVY. Default: by its name. */
  readonly weight?: number | undefined;
}

/** `id`: the job that is meant. */
export type ToWorker =
  | { readonly type: "job"; readonly id: number; readonly name: JobName; readonly request: unknown }
  | { readonly type: "abort"; readonly id: number; readonly reason: PlainError }
  | { readonly type: "chunk"; readonly id: number; readonly bytes: Uint8Array }
  | { readonly type: "end"; readonly id: number }
  /** Whether its loop runs. */
  | { readonly type: "ping" };

export type FromWorker =
  | { readonly type: "progress"; readonly id: number; readonly progress: JobProgress }
  /** The worker wants the next chunk. */
  | { readonly type: "more"; readonly id: number }
  | { readonly type: "done"; readonly id: number; readonly result: unknown }
  | { readonly type: "failed"; readonly id: number; readonly error: PlainError }
  | { readonly type: "pong" };

/** The weight of a job that reads and writes without end; of what is mostly waiting, LIGHT. */
export const HEAVY = 4;
export const LIGHT = 1;
const HEAVY_JOBS: ReadonlySet<JobName> = new Set([
  "layer",
  "compare",
  "digest",
  "merge",
  "archive",
  "copy",
  "pushBlob",
]);
/** So much on a worker makes another one worth its start, even for a light job. */
const FULL = 2 * HEAVY;
const IDLE = 10_000;
/** An aborted job that has not ended after so long is ended with its worker, if that is its own or does not answer. */
const ABORT_GRACE = 3_000;
const PING_TIMEOUT = 1_000;
/** More has no work on a node: a registry and a disk are behind all of it. */
const WORKERS_MAX = 4;
/** Buffers are outside these heaps; what is in them are names of layers. */
const RESOURCE_LIMITS = { maxOldGenerationSizeMb: 1024, maxYoungGenerationSizeMb: 4 };

interface Member {
  readonly worker: Worker;
  readonly jobs: Map<number, Conversation>;
  load: number;
  idle: NodeJS.Timeout | undefined;
  pinged: NodeJS.Timeout | undefined;
}

export class WorkerPool {
  readonly #max: number;
  readonly #members = new Set<Member>();
  #jobs = 0;
  #closed = false;

  constructor(max: number = Math.min(Math.max(2, availableParallelism()), WORKERS_MAX)) {
    this.#max = max;
  }

  /** Rejects with ImageError; after an abort, once the job has ended. */
  async run<N extends JobName>(
    name: N,
    request: Jobs[N]["request"],
    { signal, progress, input, weight = HEAVY_JOBS.has(name) ? HEAVY : LIGHT }: RunOptions = {},
  ): Promise<Jobs[N]["result"]> {
    if (this.#closed) throw new ImageError("Canceled", "the image store is closed");
    if (signal?.aborted === true) throw canceled(signal, "pull");
    const member = this.#memberFor(weight);
    const id = ++this.#jobs;
    const job = new Conversation(id, (message, transfer) => member.worker.postMessage(message, transfer), {
      signal,
      progress,
      input,
    });
    member.jobs.set(id, job);
    member.load += weight;
    let grace: NodeJS.Timeout | undefined;
    const aborted = (): void => {
      grace = setInterval(() => this.#insist(member), ABORT_GRACE);
    };
    signal?.addEventListener("abort", aborted, { once: true });
    try {
      return (await job.hold(name, request)) as Jobs[N]["result"];
    } finally {
      signal?.removeEventListener("abort", aborted);
      clearInterval(grace);
      member.jobs.delete(id);
      member.load -= weight;
      if (member.jobs.size === 0) this.#rest(member);
    }
  }

  /** Starts workers ahead of the jobs that will want them: a thread takes some 50 ms to load its modules. */
  warm(count: number): void {
    while (this.#members.size < Math.min(count, this.#max) && !this.#closed) this.#rest(this.#start());
  }

  async close(): Promise<void> {
    this.#closed = true;
    const members = [...this.#members];
    for (const { idle, pinged } of members) [idle, pinged].forEach(clearTimeout);
    await Promise.all(members.map(({ worker }) => worker.terminate()));
  }

  #memberFor(weight: number): Member {
    const [freest] = [...this.#members].sort((a, b) => a.load - b.load);
    const bearable = weight === HEAVY ? 0 : FULL;
    const member =
      freest === undefined || (freest.load > bearable && this.#members.size < this.#max) ? this.#start() : freest;
    clearTimeout(member.idle);
    member.worker.ref();
    return member;
  }

  #start(): Member {
    const cache = getCompileCacheDir();
    const worker = new Worker(new URL("./worker.ts", import.meta.url), {
      name: "berth-layers",
      resourceLimits: RESOURCE_LIMITS,
      // Half of its start would be the reading of its modules.
      env: { ...process.env, ...(cache === undefined ? {} : { NODE_COMPILE_CACHE: dirname(cache) }) },
    });
    const member: Member = { worker, jobs: new Map(), load: 0, idle: undefined, pinged: undefined };
    this.#members.add(member);
    worker.on("message", (message: FromWorker) => {
      if (message.type !== "pong") return member.jobs.get(message.id)?.hear(message);
      clearTimeout(member.pinged);
      member.pinged = undefined;
    });
    worker.on("error", (error: Error) => this.#lose(member, `failed: ${error.message}`, error));
    worker.on("exit", () => this.#lose(member, "ended in the middle of its job"));
    return member;
  }

  #lose(member: Member, how: string, cause?: Error): void {
    this.#members.delete(member);
    [member.idle, member.pinged].forEach(clearTimeout);
    for (const job of member.jobs.values())
      job.fail(new ImageError("Internal", `an image worker ${how}`, cause === undefined ? {} : { cause }));
  }

  #rest(member: Member): void {
    if (!this.#members.has(member) || this.#closed) return;
    member.worker.unref();
    clearTimeout(member.idle);
    member.idle = setTimeout(() => {
      this.#members.delete(member);
      void member.worker.terminate();
    }, IDLE).unref();
  }

  /** A job was aborted and goes on. Where others share its worker, that is ended only if its loop hangs: they would hang too. */
  #insist(member: Member): void {
    if (member.jobs.size === 1) return void member.worker.terminate();
    if (member.pinged !== undefined) return;
    member.pinged = setTimeout(() => void member.worker.terminate(), PING_TIMEOUT);
    member.worker.postMessage({ type: "ping" } satisfies ToWorker);
  }
}
