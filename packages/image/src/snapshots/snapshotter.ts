/**
 * What keeps unpacked layers and the containers' writable ones. Implementations differ in what a layer is on disk (a
 * directory, an EROFS image); test/snapshotter-contract.ts is what each must pass.
 *
 * A layer is known by its chain id, which names it together with all beneath it. Layers are filled independently of each
 * other (in any order, at the same time) and committed lowest first.
 */
import type { AppliedLayer } from "../layers/apply.ts";
import type { LayerTarget } from "../layers/jobs.ts";
import type { Rootfs, Usage } from "../types.ts";

export interface LayerDraft {
  readonly id: number;
  /** What a worker fills, as data that can cross a thread. */
  readonly target: LayerTarget;
}

/** A committed layer or a draft: what a layer on top of it needs to know to be completed. */
export type Below = LayerDraft | { readonly chainId: string };

export interface SnapshotInfo {
  readonly id: number;
  readonly kind: "draft" | "layer" | "active";
  /** Of a layer "directory" or "erofs", of a writable layer "overlay" or "copy". */
  readonly format: string;
  readonly chainId: string | undefined;
  readonly key: string | undefined;
  readonly parent: number | undefined;
  readonly usage: Usage;
}

export interface Snapshotter {
  readonly name: string;

  has(chainId: string): boolean;
  /** A new, empty layer to be filled. It is gone after a restart unless it was committed. */
  begin(): Promise<LayerDraft>;
  /**
   * Completes a filled draft with what only the layers beneath it tell: attributes of implied directories, targets of
   * hard links into lower layers. `below` is lowest first, completed. Resolves to symlinks of lower layers that entries of
   * this one go through (path → target): where there are any, the draft is as good as empty, to be filled once more with
   * them as aliases.
   */
  complete(draft: LayerDraft, applied: AppliedLayer, below: readonly Below[]): Promise<ReadonlyMap<string, string>>;
  /** Empties a draft, to be filled again. */
  reset(draft: LayerDraft): Promise<void>;
  /**
   * Within the caller's transaction: the draft becomes the layer `chainId` on `parent`. False: that layer exists (another
   * pull was first), and the draft is left to `abandon`.
   */
  commit(draft: LayerDraft, chainId: string, parent: string | undefined): boolean;
  abandon(draft: LayerDraft): Promise<void>;

  /**
   * Makes committed layers durable. Nothing waits for it: a layer that a power cut took before is made again from its blob,
   * which is durable (`doubtful`).
   */
  settle(): Promise<void>;
  /** Layers that were committed before the machine last went down, and not settled: what is on disk may be anything. */
  doubtful(): string[];
  /** Of what is still doubtful after images were restored: forgets it, with all that is built on it. Returns what it did. */
  forgetDoubtful(): Promise<string[]>;
  /** The filled and completed draft takes the place of the layer `chainId`, for containers that start from now on. */
  replace(draft: LayerDraft, chainId: string): Promise<void>;
  /** Where a layer and a draft of the same content differ; undefined: nowhere. */
  compare(draft: LayerDraft, chainId: string): Promise<string | undefined>;

  /**
   * A writable layer on `parent` (undefined: on nothing), of at most `size` bytes. Throws InUse if `key` exists, NotFound if the
   * parent does not, Unsupported where the file system has no project quotas.
   */
  prepare(key: string, parent: string | undefined, size?: number): Promise<Rootfs>;
  /** As `prepare` answered. */
  rootfs(key: string): Rootfs | undefined;
  /** What the writable layer takes on disk. Throws NotFound. */
  usage(key: string): Promise<Usage>;
  /** Removes a writable layer, which nothing has mounted. Unknown: nothing to do. */
  remove(key: string): Promise<void>;

  /** Everything there is. */
  list(): SnapshotInfo[];
  /** A regular file of the layers up to `chainId`, symlinks followed within them; undefined if there is none. Throws LimitExceeded past `limit` bytes. */
  readFile(chainId: string, path: string, limit: number): Promise<Uint8Array | undefined>;

  /** Whether `collect` would find something: cheap enough to ask after every container. */
  hasUnused(keep: ReadonlySet<string>): boolean;
  /** Within the caller's transaction: forgets layers that `keep` does not name and nothing builds on. Their disk space is freed by `sweep`. */
  collect(keep: ReadonlySet<string>): number;
  /** Removes what was forgotten from disk. */
  sweep(): Promise<void>;
  /** Bytes and inodes of all layers and writable layers as last known. */
  total(): Usage;
  /** Bytes of all layers, and of those that the chains `keep` or writable layers are made of. */
  layerUsage(keep: ReadonlySet<string>): { bytes: number; kept: number };
  /** After a crash: removes drafts, directories without a record and records without files. Returns what it did. */
  recover(): Promise<string[]>;
  /** Directories without a record, as paths below the root. */
  strays(): Promise<string[]>;
  removeStray(path: string): Promise<void>;
  /** Mounts below the snapshots' directory that no writable layer needs, as paths below the root. */
  staleMounts(): Promise<string[]>;
  dropMount(path: string): Promise<void>;
  /** Keys of writable layers whose files are gone. */
  lost(): Promise<string[]>;
  /** Ends what only a running process needs. */
  close(): Promise<void>;
}
