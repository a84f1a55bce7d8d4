/** fsck: every blob against its digest, every layer against what its blob makes, and what belongs to nobody. */
import { chainIds } from "@berth/spec/oci";
import { ImageError } from "../errors.ts";
import type { WorkerPool } from "../layers/pool.ts";
import type { Snapshotter } from "../snapshots/snapshotter.ts";
import type { Catalog, ImageContent } from "./catalog.ts";
import type { ContentStore } from "./content.ts";
import type { Restorer } from "./restore.ts";

export interface Problem {
  readonly kind: "blob" | "layer" | "image" | "file" | "mount" | "rootfs";
  /** A digest, a path below the root, or a container's. */
  readonly id: string;
  readonly problem: string;
  /** What was done about it; absent: nothing, or nothing can be. */
  readonly repair?: string;
}

export interface CheckOptions {
  readonly repair?: boolean;
  readonly signal?: AbortSignal;
  readonly progress?: (checked: string) => void;
}

export interface CheckerOptions {
  readonly content: ContentStore;
  readonly snapshotter: Snapshotter;
  readonly catalog: Catalog;
  readonly restorer: Restorer;
  readonly pool: WorkerPool;
}

/** A local failure is the layer's: its disk, or what it is sealed by, gives no other than wrong bytes. */
function unreadable(error: unknown): string {
  if (error instanceof ImageError && error.code === "Internal") return `cannot be read: ${error.message}`;
  throw error;
}

export class Checker {
  readonly #parts: CheckerOptions;
  readonly #options: CheckOptions;
  readonly #checked = new Set<string>();

  constructor(parts: CheckerOptions, options: CheckOptions) {
    this.#parts = parts;
    this.#options = options;
  }

  /** The caller holds leases on all that is checked. Rejects with ImageError only where checking itself fails. */
  async *run(): AsyncGenerator<Problem, void, undefined> {
    const { content, snapshotter, catalog } = this.#parts;
    const images = catalog.contents();
    const damaged = new Set<string>();
    for (const digest of content.list()) {
      const problem = await this.#blob(digest);
      if (problem === undefined) continue;
      damaged.add(digest);
      yield problem;
    }
    for (const image of images) {
      for (const index of image.config.rootfs.diff_ids.keys()) {
        const problem = await this.#layer(image, index, damaged);
        if (problem !== undefined) yield problem;
      }
    }
    for (const path of [...(await content.strays()), ...(await snapshotter.strays())]) yield await this.#stray(path);
    for (const path of await snapshotter.staleMounts()) yield await this.#mount(path);
    for (const key of await snapshotter.lost()) yield await this.#lost(key);
    if (this.#options.repair !== true) return;
    const dropped = await catalog.load(content);
    for (const problem of dropped) yield { kind: "image", id: "", problem, repair: "dropped: pull it again" };
  }

  async #blob(digest: string): Promise<Problem | undefined> {
    const { content, pool } = this.#parts;
    this.#step(digest);
    const actual = await pool
      .run("digest", { path: content.path(digest), digest }, { signal: this.#options.signal })
      .catch((error: unknown) => {
        if (error instanceof ImageError && error.code === "Internal") return undefined;
        throw error;
      });
    if (actual === digest) return undefined;
    const problem = actual === undefined ? "cannot be read" : `has the content of ${actual}`;
    if (this.#options.repair !== true) return { kind: "blob", id: digest, problem };
    await content.forget(digest);
    return { kind: "blob", id: digest, problem, repair: "removed: a pull brings it again" };
  }

  async #layer(image: ImageContent, index: number, damaged: ReadonlySet<string>): Promise<Problem | undefined> {
    const { snapshotter, restorer, content } = this.#parts;
    const chainId = chainIds(image.config.rootfs.diff_ids)[index] as string;
    const blob = image.manifest.layers[index]?.digest as string;
    if (this.#checked.has(chainId)) return undefined;
    this.#checked.add(chainId);
    this.#step(`layer ${blob}`);
    const missing = !snapshotter.has(chainId);
    if (damaged.has(blob) || !content.has(blob)) {
      const problem = `${missing ? "is not unpacked" : "cannot be verified"}: its blob ${blob} is not whole`;
      return { kind: "layer", id: chainId, problem };
    }
    if (missing) {
      if (this.#options.repair !== true) return { kind: "layer", id: chainId, problem: "is not unpacked" };
      await restorer.ensure(image);
      return { kind: "layer", id: chainId, problem: "is not unpacked", repair: "unpacked again" };
    }
    const draft = await restorer.make(image, index).catch(unreadable);
    // What a layer beneath has lost is that one's to tell.
    if (typeof draft === "string")
      return { kind: "layer", id: chainId, problem: `cannot be verified: a layer beneath ${draft}` };
    let kept = false;
    try {
      const problem = await snapshotter.compare(draft, chainId).catch(unreadable);
      if (problem === undefined) return undefined;
      if (this.#options.repair !== true) return { kind: "layer", id: chainId, problem };
      await snapshotter.replace(draft, chainId);
      kept = true;
      return { kind: "layer", id: chainId, problem, repair: "unpacked again" };
    } finally {
      if (!kept) await snapshotter.abandon(draft);
    }
  }

  async #stray(path: string): Promise<Problem> {
    const found: Problem = { kind: "file", id: path, problem: "is in no record" };
    if (this.#options.repair !== true) return found;
    if (path.startsWith("snapshots/")) await this.#parts.snapshotter.removeStray(path);
    else await this.#parts.content.removeStray(path);
    return { ...found, repair: "removed" };
  }

  async #mount(path: string): Promise<Problem> {
    const found: Problem = { kind: "mount", id: path, problem: "is mounted, and no container uses it" };
    if (this.#options.repair !== true) return found;
    await this.#parts.snapshotter.dropMount(path);
    return { ...found, repair: "unmounted" };
  }

  async #lost(key: string): Promise<Problem> {
    const found: Problem = { kind: "rootfs", id: key, problem: "has a record, and its files are gone" };
    if (this.#options.repair !== true) return found;
    await this.#parts.snapshotter.remove(key);
    return { ...found, repair: "forgotten: make the container again" };
  }

  #step(what: string): void {
    this.#options.signal?.throwIfAborted();
    this.#options.progress?.(what);
  }
}
