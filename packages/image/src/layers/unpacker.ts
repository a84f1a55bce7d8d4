/**
 * Unpacks the layers of images, several at a time, each once however many ask for it. What was unpacked belongs to those
 * who asked until one of them commits it; when the last lets go of an uncommitted layer, its work is ended and removed.
 */
import type { image } from "@berth/spec";
import { canceled, ImageError } from "../errors.ts";
import type { LayerDraft, Snapshotter } from "../snapshots/snapshotter.ts";
import type { ContentStore } from "../store/content.ts";
import type { Progress } from "../types.ts";
import type { AppliedLayer, LayerLimits } from "./apply.ts";
import type { FileSource, RemoteSource } from "./jobs.ts";
import { HEAVY, LIGHT, type WorkerPool } from "./pool.ts";
import { Semaphore } from "./semaphore.ts";

export interface LayerPlan {
  readonly descriptor: image.Descriptor;
  readonly diffId: string;
  readonly chainId: string;
  readonly source: RemoteSource | FileSource;
  /** Whether the blob is to be stored as it passes: not so where it is in the store, or will be put there as a file. */
  readonly store: boolean;
}

export interface UnpackerOptions {
  readonly content: ContentStore;
  readonly snapshotter: Snapshotter;
  readonly pool: WorkerPool;
  /** How a worker opens a tree: see Jobs.layer. */
  readonly tree: { readonly module: string; readonly socket: string };
  readonly limits?: LayerLimits | undefined;
  readonly warn: (message: string) => void;
  /** Layers at a time, of all images together; of those under SMALL four count as one. */
  readonly parallel?: number | undefined;
}

/** An unpacked layer that is not committed, or was committed by another who asked for it. */
export interface UnpackedLayer {
  readonly chainId: string;
  readonly draft: LayerDraft;
}

interface Filled {
  readonly draft: LayerDraft;
  readonly applied: AppliedLayer;
}

interface Fill {
  readonly source: RemoteSource | FileSource;
  readonly ingest: string | undefined;
  readonly draft: LayerDraft;
  readonly aliases: ReadonlyMap<string, string> | undefined;
  readonly status: "downloading" | "unpacking";
}

interface Task {
  readonly plan: LayerPlan;
  readonly abort: AbortController;
  readonly listeners: Set<(progress: Progress) => void>;
  /** Rejects only with ImageError. */
  readonly ready: Promise<LayerDraft>;
  draft: LayerDraft | undefined;
  progress: Progress;
  holders: number;
  committed: boolean;
}

export class Unpacker {
  readonly #options: UnpackerOptions;
  readonly #tasks = new Map<string, Task>();
  readonly #slots: Semaphore;
  /** Blobs on their way into the store, by digest. */
  readonly #arriving = new Map<string, Promise<unknown>>();
  /** Ends of abandoned tasks, which nobody else waits for. */
  readonly #endings = new Set<Promise<unknown>>();

  constructor(options: UnpackerOptions) {
    this.#options = options;
    this.#slots = new Semaphore((options.parallel ?? 3) * HEAVY);
  }

  /**
   * Unpacks what is not there yet of `plans` (lowest first). The caller holds what it gets until `release`. Rejects at once
   * when `signal` aborts.
   */
  async unpack(
    plans: readonly LayerPlan[],
    signal: AbortSignal | undefined,
    progress: (progress: Progress) => void,
  ): Promise<Holding> {
    const { content, snapshotter, pool } = this.#options;
    const holding = new Holding((task, listener) => this.#release(task, listener), progress);
    const unpacked = plans.findLastIndex((plan) => snapshotter.has(plan.chainId)) + 1;
    // A layer whose blob fsck has removed is fetched for the blob's sake.
    const lacking = plans.findIndex(({ store, descriptor }) => store && !content.has(descriptor.digest));
    const present = lacking < 0 ? unpacked : Math.min(unpacked, lacking);
    for (const { descriptor } of plans.slice(0, present))
      progress({ id: descriptor.digest, status: "exists", doneBytes: descriptor.size, totalBytes: descriptor.size });
    try {
      pool.warm(plans.length - present);
      for (let i = present; i < plans.length; i++) holding.add(this.#join(plans, i));
      await raceAbort(Promise.all(holding.tasks.map((task) => task.ready)), signal);
      return holding;
    } catch (error) {
      holding.release();
      throw error;
    }
  }

  /** Resolves when nothing is under way. */
  async settled(): Promise<void> {
    while (this.#endings.size > 0) await Promise.allSettled(this.#endings);
  }

  #join(plans: readonly LayerPlan[], index: number): Task {
    const plan = plans[index] as LayerPlan;
    const known = this.#tasks.get(plan.chainId);
    if (known !== undefined) return known;
    const { promise, resolve, reject } = Promise.withResolvers<LayerDraft>();
    // Whoever holds the task sees its failure; a task that was let go of has nobody left to tell.
    promise.catch(() => undefined);
    const task: Task = {
      plan,
      abort: new AbortController(),
      listeners: new Set(),
      ready: promise,
      draft: undefined,
      progress: { id: plan.descriptor.digest, status: "waiting", doneBytes: 0, totalBytes: plan.descriptor.size },
      holders: 0,
      committed: false,
    };
    this.#tasks.set(plan.chainId, task);
    this.#make(
      task,
      plans.slice(0, index).map((below) => below.chainId),
    ).then(resolve, reject);
    return task;
  }

  async #make(task: Task, below: readonly string[]): Promise<LayerDraft> {
    const { snapshotter } = this.#options;
    let { draft, applied } = await this.#fill(task, undefined);
    for (let round = 0; ; round++) {
      const parents = await Promise.all(below.map(async (chainId) => this.#tasks.get(chainId)?.ready ?? { chainId }));
      if (task.abort.signal.aborted) throw canceled(task.abort.signal, "pull");
      const aliases = await snapshotter.complete(draft, applied, parents);
      if (aliases.size === 0) break;
      if (round === ALIAS_ROUNDS)
        throw new ImageError(
          "InvalidImage",
          `layer ${task.plan.descriptor.digest} goes through more than ${ALIAS_ROUNDS} levels of symlinks in lower layers`,
        );
      await snapshotter.reset(draft);
      ({ draft, applied } = await this.#fill(task, aliases));
    }
    this.#tell(task, { status: "done", doneBytes: task.plan.descriptor.size });
    return draft;
  }

  /** Waits for a place, and only then takes anything. */
  async #fill(task: Task, aliases: ReadonlyMap<string, string> | undefined): Promise<Filled> {
    const { signal } = task.abort;
    const { plan } = task;
    const fill = async (): Promise<Filled> => {
      const { content, snapshotter } = this.#options;
      const draft = (task.draft ??= await snapshotter.begin());
      const { digest } = plan.descriptor;
      // Another layer of the same content (they repeat, empty ones above all) is on its way: one download is enough.
      for (let arriving = this.#arriving.get(digest); arriving !== undefined; arriving = this.#arriving.get(digest)) {
        await raceAbort(
          arriving.catch(() => undefined),
          signal,
        );
      }
      const here = content.has(digest);
      const store = plan.store && !here;
      const source = here ? ({ kind: "file", path: content.path(digest) } as const) : plan.source;
      const ingest = store ? content.newIngest() : undefined;
      const status = source.kind === "registry" ? "downloading" : "unpacking";
      const fill = { source, ingest, draft, aliases, status } as const;
      const work = this.#runUntilRight(task, fill).then((applied) => ({ draft, applied }));
      if (ingest === undefined) return await work;
      const arrival = work.then(async () => await content.adopt(ingest, digest, plan.descriptor.size));
      this.#arriving.set(digest, arrival);
      try {
        await arrival;
        return await work;
      } catch (error) {
        await content.discard(ingest);
        throw error;
      } finally {
        this.#arriving.delete(digest);
      }
    };
    return await this.#slots.run(signal, fill, weightOf(plan));
  }

  /** A host that sends other content than was asked for is not asked again: the next one is. */
  async #runUntilRight(task: Task, fill: Fill): Promise<AppliedLayer> {
    const { content, snapshotter, warn } = this.#options;
    let { source } = fill;
    for (;;) {
      try {
        return await this.#run(task, { ...fill, source });
      } catch (error) {
        if (!(error instanceof ImageError) || error.host === undefined || source.kind !== "registry") throw error;
        warn(`${error.message} (from ${error.host}): asking the next host`);
        source = { ...source, avoid: [...(source.avoid ?? []), error.host] };
        if (fill.ingest !== undefined) await content.discard(fill.ingest);
        await snapshotter.reset(fill.draft);
      }
    }
  }

  async #run(task: Task, { source, ingest, draft, aliases, status }: Fill): Promise<AppliedLayer> {
    const { pool, tree, limits } = this.#options;
    const { descriptor, diffId } = task.plan;
    this.#tell(task, { status, doneBytes: 0 });
    return await pool.run(
      "layer",
      { source, descriptor, diffId, ingest, target: draft.target, tree, limits, aliases },
      {
        signal: task.abort.signal,
        weight: weightOf(task.plan),
        progress: ({ doneBytes }) => this.#tell(task, { status, doneBytes }),
      },
    );
  }

  #tell(task: Task, change: Pick<Progress, "status" | "doneBytes">): void {
    task.progress = { ...task.progress, ...change };
    for (const listener of task.listeners) listener(task.progress);
  }

  #release(task: Task, listener: (progress: Progress) => void): void {
    task.listeners.delete(listener);
    if (--task.holders > 0) return;
    this.#tasks.delete(task.plan.chainId);
    if (task.committed) return;
    task.abort.abort(new ImageError("Canceled", "pull: canceled"));
    const ending = task.ready
      .then(
        () => undefined,
        () => undefined,
      )
      .then(async () => {
        if (task.draft !== undefined) await this.#options.snapshotter.abandon(task.draft);
      })
      // What cannot be removed now is without an owner, and the next start's recovery removes it.
      .catch((error: unknown) => this.#options.warn(`removing an abandoned layer: ${String(error)}`))
      .finally(() => this.#endings.delete(ending));
    this.#endings.add(ending);
  }
}

const ALIAS_ROUNDS = 8;
/** Bytes of a layer that is more waiting for its registry than work. */
const SMALL = 1 << 20;
const weightOf = ({ descriptor }: LayerPlan): number => (descriptor.size < SMALL ? LIGHT : HEAVY);

/** Someone's claim on tasks. */
export class Holding {
  readonly tasks: Task[] = [];
  readonly #release: (task: Task, listener: (progress: Progress) => void) => void;
  readonly #listener: (progress: Progress) => void;

  constructor(
    release: (task: Task, listener: (progress: Progress) => void) => void,
    listener: (progress: Progress) => void,
  ) {
    this.#release = release;
    this.#listener = (progress) => listener(progress);
  }

  add(task: Task): void {
    task.holders++;
    task.listeners.add(this.#listener);
    this.tasks.push(task);
    this.#listener(task.progress);
  }

  /** What is not committed yet, lowest first. */
  uncommitted(): UnpackedLayer[] {
    return this.tasks
      .filter((task) => !task.committed)
      .map((task) => ({ chainId: task.plan.chainId, draft: task.draft as LayerDraft }));
  }

  /** After the transaction that committed a layer. */
  committed(chainId: string): void {
    for (const task of this.tasks) if (task.plan.chainId === chainId) task.committed = true;
  }

  release(): void {
    for (const task of this.tasks.splice(0)) this.#release(task, this.#listener);
  }
}

/** Rejects when the signal aborts, while `work` may go on. */
export async function raceAbort<T>(
  work: Promise<T> | undefined,
  signal: AbortSignal | undefined,
): Promise<T | undefined> {
  if (work === undefined || signal === undefined) return await work;
  const { promise, reject } = Promise.withResolvers<never>();
  const abort = (): void => reject(canceled(signal, "pull"));
  if (signal.aborted) abort();
  else signal.addEventListener("abort", abort, { once: true });
  work.catch(() => undefined);
  promise.catch(() => undefined);
  try {
    return await Promise.race([promise, work]);
  } finally {
    signal.removeEventListener("abort", abort);
  }
}
