/**
 * The snapshotters: layers as EROFS images or as directories, stacked by overlayfs or copied for each container. What
 * they have in common is here: snapshots/<id>, one row each. Images are mounted when a container first needs them
 * (mounts.ts); the overlay is the container's own, made by its plan.
 */
import type { Hand, Plan } from "@berth/kernel";
import { chmod, mkdir, readdir, readFile, rename, stat } from "node:fs/promises";
import { dirname, join, relative } from "node:path";
import { setTimeout as delay } from "node:timers/promises";
import { ImageError, toImageError } from "../errors.ts";
import type { AppliedLayer } from "../layers/apply.ts";
import { setRoot } from "../layers/complete-job.ts";
import type { LayerTarget, TreeSource } from "../layers/jobs.ts";
import type { WorkerPool } from "../layers/pool.ts";
import type { Database } from "../store/database.ts";
import { syncFile } from "../store/content.ts";
import type { Rootfs, Usage } from "../types.ts";
import type { Choice, SnapshotterName } from "./choose.ts";
import { DiskUsage } from "./disk-usage.ts";
import { fsOf, imageOf, type LayerFormatName, type LayerRef, openLayer } from "./layer-files.ts";
import { LayerMounts } from "./mounts.ts";
import { Limits, removal } from "./quota.ts";
import { type ActiveRow, type ChainRow, type Kept, SnapshotRows, unknownLayer } from "./rows.ts";
import { broken, seal, type Seal, type Verity } from "./seal.ts";
import type { Below, LayerDraft, SnapshotInfo, Snapshotter } from "./snapshotter.ts";
import { LayerView } from "./view.ts";

/** A tree of a million files takes a while to remove; a request's own deadline still ends the wait for it. */
const REMOVE_TIMEOUT = 600_000;
const REMOVE_ATTEMPTS = 6;

export interface SnapshotStoreOptions {
  readonly root: string;
  readonly hand: Hand;
  readonly database: Database;
  readonly pool: WorkerPool;
  readonly tree: TreeSource;
  readonly choice: Choice;
  /** For tests of what a power cut leaves: another than the machine's boot id. */
  readonly boot?: string | undefined;
}

export class SnapshotStore implements Snapshotter {
  readonly name: SnapshotterName;
  readonly #root: string;
  readonly #hand: Hand;
  readonly #pool: WorkerPool;
  readonly #tree: TreeSource;
  readonly #format: LayerFormatName;
  readonly #verity: Verity | undefined;
  readonly #rows: SnapshotRows;
  readonly #mounts: LayerMounts;
  /** Of drafts that were completed, for the layers on top of them. */
  readonly #completed = new Map<number, Kept>();
  readonly #usage: DiskUsage;
  readonly #limits: Limits;
  #forgotten: number[] = [];
  #settling: Promise<void> = Promise.resolve();
  readonly #boot: string;

  private constructor(options: SnapshotStoreOptions, mounts: LayerMounts, boot: string) {
    this.#boot = boot;
    this.name = options.choice.name;
    this.#root = join(options.root, "snapshots");
    this.#hand = options.hand;
    this.#pool = options.pool;
    this.#tree = options.tree;
    this.#format = options.choice.name === "overlayfs" ? "directory" : "erofs";
    this.#verity = options.choice.verity;
    this.#rows = new SnapshotRows(options.database);
    this.#usage = new DiskUsage(options.hand);
    this.#limits = new Limits(options.hand);
    this.#mounts = mounts;
  }

  static async open(options: SnapshotStoreOptions): Promise<SnapshotStore> {
    const root = join(options.root, "snapshots");
    await mkdir(root, { recursive: true, mode: 0o700 });
    const mounts = await LayerMounts.open(options.hand, root, options.choice.mount ?? "file");
    const boot = (await readFile("/proc/sys/kernel/random/boot_id", "utf8")).trim();
    return new SnapshotStore(options, mounts, options.boot ?? boot);
  }

  has(chainId: string): boolean {
    return this.#rows.layer(chainId, this.#format, this.#verity) !== undefined;
  }

  async begin(): Promise<LayerDraft> {
    const id = this.#rows.insert("draft", this.#format, null, null);
    try {
      await this.#makeHome(id);
    } catch (error) {
      this.#rows.forget(id);
      throw toImageError(error, `make ${this.#home(id)}`);
    }
    return { id, target: this.#target(id) };
  }

  async complete(
    draft: LayerDraft,
    applied: AppliedLayer,
    below: readonly Below[],
  ): Promise<ReadonlyMap<string, string>> {
    const { implied, opaque, missingLinks } = applied;
    if (missingLinks.length > 0 || (implied.length > 0 && below.length > 0)) {
      const request = { implied, opaque, missingLinks };
      const aliases = await this.#pool.run("complete", {
        target: draft.target,
        tree: this.#tree,
        applied: request,
        below: this.#refsOf(below),
      });
      if (aliases.size > 0) return aliases;
    }
    const sealed = await this.#seal(draft.id);
    this.#completed.set(draft.id, { usage: await this.#measure(draft, applied), opaque, seal: sealed });
    return new Map();
  }

  async reset(draft: LayerDraft): Promise<void> {
    await this.#removeDirectories([draft.id]);
    await this.#makeHome(draft.id);
  }

  commit(draft: LayerDraft, chainId: string, parent: string | undefined): boolean {
    if (this.has(chainId)) return false;
    const completed = this.#completed.get(draft.id);
    if (completed === undefined)
      throw new ImageError("Internal", `snapshot ${draft.id} is committed before it is complete`);
    const below = parent === undefined ? null : this.#required(parent);
    this.#rows.commit(draft.id, chainId, below, completed, this.#boot);
    return true;
  }

  async settle(): Promise<void> {
    const settling = this.#settling.then(async () => await this.#settleAll());
    // One that failed is its caller's to tell, and the next one's to make good.
    this.#settling = settling.catch(() => undefined);
    await settling;
  }

  doubtful(): string[] {
    return this.#rows
      .unsettled()
      .flatMap(({ boot, chainId }) => (boot === this.#boot || chainId === undefined ? [] : [chainId]));
  }

  async forgetDoubtful(): Promise<string[]> {
    const lost = this.#rows.unsettled().filter(({ boot }) => boot !== this.#boot);
    for (const { id } of lost) this.#rows.forgetWithAllAbove(id);
    const known = new Set((await readdir(this.#root)).filter((name) => /^\d+$/.test(name)));
    for (const { id } of this.list()) known.delete(String(id));
    await this.#removePaths([...known].map((name) => join(this.#root, name)));
    return lost.map(({ id }) => `forgot snapshot ${id}, which was not on the disk yet, and what is built on it`);
  }

  async replace(draft: LayerDraft, chainId: string): Promise<void> {
    const id = this.#required(chainId);
    const aside = join(this.#home(draft.id), "replaced");
    const [from, to] = [this.#files(draft.id), this.#files(id)];
    // A crash in between leaves it doubtful.
    this.#rows.unsettle(id, "replaced");
    // A layer's directory may be gone altogether. What containers have mounted stays theirs.
    await mkdir(this.#home(id), { recursive: true, mode: 0o711 });
    await rename(to, aside).catch((error: NodeJS.ErrnoException) => {
      if (error.code !== "ENOENT") throw error;
    });
    await rename(from, to);
    this.#rows.unsettle(id, this.#boot);
    await this.abandon(draft);
    await this.#mounts.forget(this.#home(id));
  }

  async compare(draft: LayerDraft, chainId: string): Promise<string | undefined> {
    const id = this.#required(chainId);
    const [one, other] = [this.#files(id), this.#files(draft.id)];
    const sealed = this.#rows.seal(id);
    const different = sealed === undefined ? undefined : await broken(sealed, one, this.#hand, this.#pool);
    if (different !== undefined) return different;
    return await this.#pool.run("compare", { format: this.#format, one, other });
  }

  async abandon(draft: LayerDraft): Promise<void> {
    this.#completed.delete(draft.id);
    await this.#removeDirectories([draft.id]);
    this.#rows.forget(draft.id);
  }

  async prepare(key: string, parent: string | undefined, size?: number): Promise<Rootfs> {
    if (this.#rows.active(key) !== undefined) throw new ImageError("InUse", `root file system "${key}" exists already`);
    const below = parent === undefined ? null : this.#required(parent);
    const format = this.name === "native" ? "copy" : "overlay";
    const id = this.#rows.insert("active", format, key, below);
    try {
      const layers = below === null ? [] : this.#chain(below);
      if (size !== undefined) {
        await mkdir(this.#home(id), { mode: 0o711 });
        await this.#limits.set(this.#home(id), id, size);
      }
      await this.#makeFs(id);
      if (format === "copy") await this.#copy(id, layers);
      else await this.#overlay(id, layers);
      return this.#rootfs({ id, parent: below, format });
    } catch (error) {
      await this.remove(key);
      throw toImageError(error, `make root file system "${key}"`);
    }
  }

  rootfs(key: string): Rootfs | undefined {
    const active = this.#rows.active(key);
    return active === undefined ? undefined : this.#rootfs(active);
  }

  async usage(key: string): Promise<Usage> {
    const active = this.#rows.active(key);
    if (active === undefined) throw new ImageError("NotFound", `no root file system "${key}"`);
    return await this.#usage.of(fsOf(this.#home(active.id)));
  }

  async remove(key: string): Promise<void> {
    const active = this.#rows.active(key);
    if (active === undefined) return;
    await this.#removeDirectories([active.id]);
    this.#usage.forget(fsOf(this.#home(active.id)));
    this.#rows.forget(active.id);
    await this.#dropMounts();
  }

  list(): SnapshotInfo[] {
    return this.#rows.list().map((info) => ({
      ...info,
      usage: (info.key === undefined ? undefined : this.#usage.last(fsOf(this.#home(info.id)))) ?? info.usage,
    }));
  }

  async readFile(chainId: string, path: string, limit: number): Promise<Uint8Array | undefined> {
    using view = new LayerView(this.#chain(this.#required(chainId)));
    return await view.read(path, limit);
  }

  hasUnused(keep: ReadonlySet<string>): boolean {
    return this.#rows.hasUnused(keep);
  }

  collect(keep: ReadonlySet<string>): number {
    const gone = this.#rows.forgetUnused(keep);
    this.#forgotten.push(...gone);
    return gone.length;
  }

  async sweep(): Promise<void> {
    if (this.#forgotten.length > 0) await this.#dropMounts();
    const drafts = new Set(
      this.list()
        .filter((info) => info.kind === "draft")
        .map((info) => info.id),
    );
    for (const id of this.#completed.keys()) if (!drafts.has(id)) this.#completed.delete(id);
    const ids = this.#forgotten;
    this.#forgotten = [];
    try {
      await this.#removeDirectories(ids);
    } catch (error) {
      this.#forgotten.push(...ids);
      throw error;
    }
  }

  total(): Usage {
    return this.list().reduce(
      (sum, { usage }) => ({ bytes: sum.bytes + usage.bytes, inodes: sum.inodes + usage.inodes }),
      { bytes: 0, inodes: 0 },
    );
  }

  layerUsage(keep: ReadonlySet<string>): { bytes: number; kept: number } {
    return this.#rows.layerUsage(keep);
  }

  async recover(): Promise<string[]> {
    const done = this.#rows.forgetDrafts().map((id) => `removed snapshot ${id}, a layer that was not finished`);
    const names = await readdir(this.#root);
    const doubtful = new Set(this.doubtful());
    for (const info of this.list()) {
      if (doubtful.has(info.chainId ?? "") || (await this.#isThere(info))) continue;
      done.push(
        `forgot snapshot ${info.id} (${info.key ?? info.chainId}), whose files are gone, and what is built on it`,
      );
      this.#rows.forgetWithAllAbove(info.id);
    }
    await this.#dropMounts();
    const known = new Set(this.list().map((info) => String(info.id)));
    const strangers = names.filter((name) => !known.has(name));
    for (const name of strangers) done.push(`removed directory snapshots/${name}, which has no record`);
    await this.#removePaths(strangers.map((name) => join(this.#root, name)));
    return done;
  }

  async strays(): Promise<string[]> {
    const names = await readdir(this.#root);
    const known = new Set([...this.list().map(({ id }) => String(id)), ...this.#forgotten.map(String)]);
    return names.filter((name) => !known.has(name)).map((name) => `snapshots/${name}`);
  }

  async removeStray(path: string): Promise<void> {
    await this.#removePaths([join(dirname(this.#root), path)]);
  }

  async staleMounts(): Promise<string[]> {
    const mounted = await this.#mounts.stale(() => this.#usedHomes());
    return mounted.map((path) => relative(dirname(this.#root), path));
  }

  async dropMount(path: string): Promise<void> {
    await this.#mounts.drop(join(dirname(this.#root), path), () => this.#usedHomes());
  }

  async lost(): Promise<string[]> {
    const keys: string[] = [];
    for (const info of this.list())
      if (info.kind === "active" && info.key !== undefined && !(await this.#isThere(info))) keys.push(info.key);
    return keys;
  }

  /** What containers use stays mounted: the next process takes it over. */
  async close(): Promise<void> {
    await this.#settling;
    await this.#dropMounts();
  }

  async #dropMounts(): Promise<void> {
    await this.#mounts.dropUnused(() => this.#usedHomes());
  }

  #usedHomes(): Set<string> {
    return new Set(this.#rows.usedByActive().map((id) => this.#home(id)));
  }

  async #settleAll(): Promise<void> {
    const layers = this.#rows.unsettled().filter(({ boot }) => boot === this.#boot);
    if (layers.length === 0) return;
    for (const layer of layers) await this.#settleOne(layer);
    await syncFile(this.#root);
    const directory = layers.findLast(({ format }) => format === "directory");
    // All of them are on one file system, and the end of a tree is where bosun calls syncfs(2).
    if (directory !== undefined) await (await this.#hand.tree(fsOf(this.#home(directory.id)))).end(true);
    this.#rows.settled(layers.map(({ id }) => id));
  }

  async #settleOne({ id, format }: { readonly id: number; readonly format: string }): Promise<void> {
    try {
      if (format === "erofs") await syncFile(imageOf(this.#home(id)));
      await syncFile(this.#home(id));
    } catch (error) {
      const removed = !this.#rows.unsettled().some((layer) => layer.id === id);
      if (!removed || (error as NodeJS.ErrnoException).code !== "ENOENT") throw error;
    }
  }

  #files(id: number): string {
    return this.#format === "erofs" ? imageOf(this.#home(id)) : fsOf(this.#home(id));
  }

  #target(id: number): LayerTarget {
    const home = this.#home(id);
    return this.#format === "erofs" ? { kind: "erofs", file: imageOf(home) } : { kind: "tree", directory: fsOf(home) };
  }

  async #measure({ id }: LayerDraft, { bytes, inodes }: AppliedLayer): Promise<Usage> {
    if (this.#format === "directory") return { bytes, inodes };
    const { blocks } = await stat(imageOf(this.#home(id)));
    return { bytes: blocks * 512, inodes: 2 };
  }

  async #seal(id: number): Promise<Seal | undefined> {
    if (this.#verity === undefined) return undefined;
    const path = imageOf(this.#home(id));
    return await seal(this.#verity, path, this.#hand, this.#pool).catch((error: unknown) => {
      throw toImageError(error, `seal ${path}`);
    });
  }

  async #overlay(id: number, layers: readonly LayerRef[]): Promise<void> {
    const home = this.#home(id);
    await mkdir(join(home, "work"), { mode: 0o700 });
    const [top] = layers;
    if (top === undefined) return void (await mkdir(join(home, "empty"), { mode: 0o755 }));
    await this.#mounts.ensure(layers.filter(({ format }) => format === "erofs"));
    const files = openLayer(top);
    try {
      const root = await files.entry("");
      if (root !== undefined) await setRoot(fsOf(home), root);
    } finally {
      files.close();
    }
  }

  async #copy(id: number, layers: readonly LayerRef[]): Promise<void> {
    if (layers.length === 0) return;
    await this.#pool.run("merge", { layers, directory: fsOf(this.#home(id)), tree: this.#tree });
  }

  /** Lowest first, as the caller has them; topmost first, as a view needs them. */
  #refsOf(below: readonly Below[]): LayerRef[] {
    return below
      .map((layer): LayerRef => {
        if ("chainId" in layer) return this.#chain(this.#required(layer.chainId))[0] as LayerRef;
        const completed = this.#completed.get(layer.id);
        return completed === undefined
          ? (this.#chain(layer.id)[0] as LayerRef)
          : { format: this.#format, home: this.#home(layer.id), opaque: completed.opaque };
      })
      .reverse();
  }

  /** The layer and all beneath it that shows, topmost first. */
  #chain(id: number): LayerRef[] {
    const layers = this.#rows
      .chain(id)
      .map(({ id: each, ...row }: ChainRow): LayerRef => ({ ...row, home: this.#home(each) }));
    // Overlayfs does not look for the attribute on a layer's root: what that would hide is left out here.
    const cut = layers.findIndex(({ opaque }) => opaque.includes(""));
    return cut < 0 ? layers : layers.slice(0, cut + 1);
  }

  #rootfs({ id, parent, format }: ActiveRow): Rootfs {
    const home = this.#home(id);
    if (format === "copy") return { kind: "path", path: fsOf(home) };
    const layers = parent === null ? [] : this.#chain(parent);
    const lowers = layers.map((layer) => fsOf(layer.home));
    if (lowers.length === 0) lowers.push(join(home, "empty"));
    const images = layers.every((layer) => layer.format === "erofs") && layers.map((layer) => imageOf(layer.home));
    return { kind: "overlay", lowers, upper: fsOf(home), work: join(home, "work"), ...(images && { images }) };
  }

  async #isThere({ id, kind, format }: SnapshotInfo): Promise<boolean> {
    const path = kind === "layer" && format === "erofs" ? imageOf(this.#home(id)) : fsOf(this.#home(id));
    return await stat(path).then(
      () => true,
      () => false,
    );
  }

  async #makeHome(id: number): Promise<void> {
    if (this.#format === "directory") return await this.#makeFs(id);
    await mkdir(this.#home(id), { recursive: true, mode: 0o711 });
  }

  /** Whatever the umask, as it becomes a container's root. */
  async #makeFs(id: number): Promise<void> {
    const directory = fsOf(this.#home(id));
    await mkdir(directory, { recursive: true, mode: 0o755 });
    await chmod(directory, 0o755);
  }

  #home(id: number): string {
    return join(this.#root, String(id));
  }

  #required(chainId: string): number {
    const id = this.#rows.layer(chainId, this.#format, this.#verity);
    if (id === undefined) throw unknownLayer(chainId);
    return id;
  }

  async #removeDirectories(ids: readonly number[]): Promise<void> {
    await this.#removePaths(ids.map((id) => this.#home(id)));
  }

  async #removePaths(paths: readonly string[]): Promise<void> {
    if (paths.length === 0) return;
    const plan: Plan = { orders: paths.flatMap(removal) };
    for (let attempt = 1; ; attempt++) {
      try {
        await this.#hand.run(plan, { timeoutMs: REMOVE_TIMEOUT });
        return;
      } catch (error) {
        // The writer of an aborted layer ends when it has read what was sent to it, and until then fills what is emptied.
        if ((error as { code?: string }).code !== "ENOTEMPTY" || attempt === REMOVE_ATTEMPTS)
          throw toImageError(error, "remove snapshots");
        await delay(50 * attempt);
      }
    }
  }
}
