/**
 * Layers as directories, snapshots/<id>/fs, to be stacked by overlayfs; a writable layer has snapshots/<id>/work beside
 * it. Nothing is mounted: the container's plan makes the mount.
 */
import type { Hand, Plan } from "@berth/kernel";
import { chmod, chown, mkdir, readdir, stat, utimes } from "node:fs/promises";
import { join } from "node:path";
import { setTimeout as delay } from "node:timers/promises";
import { ImageError, toImageError } from "../errors.ts";
import type { AppliedLayer } from "../layers/apply.ts";
import type { WorkerPool } from "../layers/pool.ts";
import type { Database } from "../store/database.ts";
import type { Rootfs, Usage } from "../types.ts";
import { findAliases, needsRebase, rebase } from "./rebase.ts";
import type { Below, LayerDraft, SnapshotInfo, Snapshotter } from "./snapshotter.ts";
import { LayerView, type ViewLayer } from "./view.ts";

/** A tree of a million files takes a while to remove; a request's own deadline still ends the wait for it. */
const REMOVE_TIMEOUT = 600_000;
const REMOVE_ATTEMPTS = 6;

/** Drafts, writable layers, the layers of the chain ids in the parameter (a JSON array), and all that these build on. */
const USED = `
  WITH RECURSIVE used (id) AS (
    SELECT id FROM snapshots WHERE kind <> 'layer' OR chain_id IN (SELECT value FROM json_each(?))
    UNION SELECT parent FROM snapshots JOIN used USING (id) WHERE parent IS NOT NULL
  )`;

export interface OverlayfsOptions {
  readonly root: string;
  readonly hand: Hand;
  readonly database: Database;
  readonly pool: WorkerPool;
}

export class OverlayfsSnapshotter implements Snapshotter {
  readonly name = "overlayfs";
  readonly #root: string;
  readonly #hand: Hand;
  readonly #database: Database;
  readonly #pool: WorkerPool;
  /** Of drafts that were completed, for the layers on top of them. */
  readonly #completed = new Map<number, Pick<AppliedLayer, "bytes" | "inodes" | "opaque">>();
  readonly #usage = new Map<string, Usage>();
  #forgotten: number[] = [];

  private constructor({ root, hand, database, pool }: OverlayfsOptions) {
    this.#root = join(root, "snapshots");
    this.#hand = hand;
    this.#database = database;
    this.#pool = pool;
  }

  static async open(options: OverlayfsOptions): Promise<OverlayfsSnapshotter> {
    const snapshotter = new OverlayfsSnapshotter(options);
    await mkdir(snapshotter.#root, { recursive: true, mode: 0o700 });
    return snapshotter;
  }

  has(chainId: string): boolean {
    return this.#idOf(chainId) !== undefined;
  }

  async begin(): Promise<LayerDraft> {
    const id = this.#insert("draft", null, null);
    try {
      await this.#makeFs(id);
    } catch (error) {
      this.#forget(id);
      throw toImageError(error, `make ${this.#fs(id)}`);
    }
    return { id, target: { kind: "tree", directory: this.#fs(id) } };
  }

  async complete(
    draft: LayerDraft,
    applied: AppliedLayer,
    below: readonly Below[],
  ): Promise<ReadonlyMap<string, string>> {
    const view = this.#viewBelow(below);
    const aliases = await findAliases(applied, view);
    if (aliases.size > 0) return aliases;
    if (needsRebase(applied)) await this.#rebase(draft, applied, view);
    const root = applied.implied.includes("") ? await view.find("") : undefined;
    if (root !== undefined) await copyRootAttributes(root.host, this.#fs(draft.id));
    this.#completed.set(draft.id, { bytes: applied.bytes, inodes: applied.inodes, opaque: applied.opaque });
    return new Map();
  }

  async reset(draft: LayerDraft): Promise<void> {
    await this.#removeDirectories([draft.id]);
    await this.#makeFs(draft.id);
  }

  async sync(drafts: readonly LayerDraft[]): Promise<void> {
    const last = drafts.at(-1);
    if (last === undefined) return;
    // All of them are on one file system, and the end of a tree is where bosun calls syncfs(2).
    const tree = await this.#hand.tree(this.#fs(last.id));
    await tree.end(true);
  }

  commit(draft: LayerDraft, chainId: string, parent: string | undefined): boolean {
    if (this.has(chainId)) return false;
    const applied = this.#completed.get(draft.id);
    if (applied === undefined)
      throw new ImageError("Internal", `snapshot ${draft.id} is committed before it is complete`);
    const below = parent === undefined ? null : this.#idOf(parent);
    if (below === undefined) throw new ImageError("NotFound", `layer ${parent} is not unpacked`);
    this.#database.transaction((sql) =>
      sql
        .prepare(
          "UPDATE snapshots SET kind = 'layer', chain_id = ?, parent = ?, bytes = ?, inodes = ?, opaque = ? WHERE id = ?",
        )
        .run(chainId, below, applied.bytes, applied.inodes, JSON.stringify(applied.opaque), draft.id),
    );
    return true;
  }

  async abandon(draft: LayerDraft): Promise<void> {
    this.#completed.delete(draft.id);
    await this.#removeDirectories([draft.id]);
    this.#forget(draft.id);
  }

  async prepare(key: string, parent: string | undefined): Promise<Rootfs> {
    if (this.#active(key) !== undefined) throw new ImageError("InUse", `root file system "${key}" exists already`);
    const below = parent === undefined ? null : this.#idOf(parent);
    if (below === undefined) throw new ImageError("NotFound", `layer ${parent} is not unpacked: pull the image again`);
    const id = this.#insert("active", key, below);
    try {
      await this.#makeFs(id);
      await mkdir(join(this.#root, String(id), "work"), { mode: 0o700 });
      if (below === null) await mkdir(join(this.#root, String(id), "empty"), { mode: 0o755 });
      else await copyRootAttributes(this.#fs(below), this.#fs(id));
      return this.#rootfs(id, below);
    } catch (error) {
      await this.remove(key);
      throw toImageError(error, `make root file system "${key}"`);
    }
  }

  rootfs(key: string): Rootfs | undefined {
    const active = this.#active(key);
    return active === undefined ? undefined : this.#rootfs(active.id, active.parent);
  }

  async usage(key: string): Promise<Usage> {
    const active = this.#active(key);
    if (active === undefined) throw new ImageError("NotFound", `no root file system "${key}"`);
    const usage = await this.#pool.run("usage", { directory: this.#fs(active.id) });
    this.#usage.set(key, usage);
    return usage;
  }

  async remove(key: string): Promise<void> {
    const active = this.#active(key);
    if (active === undefined) return;
    await this.#removeDirectories([active.id]);
    this.#usage.delete(key);
    this.#forget(active.id);
  }

  list(): SnapshotInfo[] {
    return this.#database.sql
      .prepare("SELECT id, kind, chain_id, key, parent, bytes, inodes FROM snapshots ORDER BY id")
      .all()
      .map((row) => ({
        id: Number(row["id"]),
        kind: row["kind"] as SnapshotInfo["kind"],
        chainId: (row["chain_id"] as string | null) ?? undefined,
        key: (row["key"] as string | null) ?? undefined,
        parent: (row["parent"] as number | null) ?? undefined,
        usage: this.#usage.get((row["key"] as string | null) ?? "") ?? {
          bytes: Number(row["bytes"]),
          inodes: Number(row["inodes"]),
        },
      }));
  }

  async readFile(chainId: string, path: string, limit: number): Promise<Uint8Array | undefined> {
    return await new LayerView(this.#chain(this.#required(chainId))).read(path, limit);
  }

  hasUnused(keep: ReadonlySet<string>): boolean {
    return (
      this.#database.sql
        .prepare(`${USED} SELECT 1 FROM snapshots WHERE id NOT IN used LIMIT 1`)
        .get(JSON.stringify([...keep])) !== undefined
    );
  }

  collect(keep: ReadonlySet<string>): number {
    const gone = this.#database.transaction((sql) =>
      sql.prepare(`${USED} DELETE FROM snapshots WHERE id NOT IN used RETURNING id`).all(JSON.stringify([...keep])),
    );
    this.#forgotten.push(...gone.map((row) => Number(row["id"])));
    return gone.length;
  }

  async sweep(): Promise<void> {
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

  async recover(): Promise<string[]> {
    const done: string[] = [];
    this.#database.transaction((sql) => {
      for (const row of sql.prepare("DELETE FROM snapshots WHERE kind = 'draft' RETURNING id").all())
        done.push(`removed snapshot ${Number(row["id"])}, a layer that was not finished`);
    });
    const names = await readdir(this.#root);
    const present = new Set(names);
    for (const info of this.list()) {
      if (present.has(String(info.id))) continue;
      done.push(
        `forgot snapshot ${info.id} (${info.key ?? info.chainId}), whose directory is gone, and what is built on it`,
      );
      this.#forgetWithAllAbove(info.id);
    }
    const known = new Set(this.list().map((info) => String(info.id)));
    const strangers = names.filter((name) => !known.has(name));
    for (const name of strangers) done.push(`removed directory snapshots/${name}, which has no record`);
    await this.#removePaths(strangers.map((name) => join(this.#root, name)));
    return done;
  }

  async #rebase(draft: LayerDraft, applied: AppliedLayer, below: LayerView): Promise<void> {
    const tree = await this.#hand.tree(this.#fs(draft.id));
    try {
      await rebase(applied, below, this.#fs(draft.id), tree);
      await tree.end(false);
    } catch (error) {
      await tree.abort();
      throw error;
    }
  }

  /** Lowest first, as the caller has them; topmost first, as a view needs them. */
  #viewBelow(below: readonly Below[]): LayerView {
    const layers = below.map((layer): ViewLayer => {
      if ("chainId" in layer) return this.#chain(this.#required(layer.chainId))[0] as ViewLayer;
      const applied = this.#completed.get(layer.id);
      return applied === undefined
        ? (this.#chain(layer.id)[0] as ViewLayer)
        : { directory: this.#fs(layer.id), opaque: new Set(applied.opaque) };
    });
    return new LayerView(layers.reverse());
  }

  /** The layer and all beneath it, topmost first. */
  #chain(id: number): ViewLayer[] {
    const rows = this.#database.sql
      .prepare(`
      WITH RECURSIVE chain (id, parent, opaque, depth) AS (
        SELECT id, parent, opaque, 0 FROM snapshots WHERE id = ?
        UNION ALL SELECT below.id, below.parent, below.opaque, depth + 1 FROM snapshots AS below JOIN chain ON below.id = chain.parent
      ) SELECT id, opaque FROM chain ORDER BY depth`)
      .all(id);
    return rows.map((row) => ({
      directory: this.#fs(Number(row["id"])),
      opaque: new Set(JSON.parse(String(row["opaque"])) as string[]),
    }));
  }

  #rootfs(id: number, parent: number | null): Rootfs {
    const lowers: string[] = [];
    for (const layer of parent === null ? [] : this.#chain(parent)) {
      lowers.push(layer.directory);
      // Overlayfs does not look for the attribute on a layer's root: what that would hide is left out here.
      if (layer.opaque.has("")) break;
    }
    if (lowers.length === 0) lowers.push(join(this.#root, String(id), "empty"));
    return { kind: "overlay", lowers, upper: this.#fs(id), work: join(this.#root, String(id), "work") };
  }

  /** Whatever the umask, as it becomes a container's root. */
  async #makeFs(id: number): Promise<void> {
    await mkdir(this.#fs(id), { recursive: true, mode: 0o755 });
    await chmod(this.#fs(id), 0o755);
  }

  #fs(id: number): string {
    return join(this.#root, String(id), "fs");
  }

  #idOf(chainId: string): number | undefined {
    const row = this.#database.sql.prepare("SELECT id FROM snapshots WHERE chain_id = ?").get(chainId);
    return row === undefined ? undefined : Number(row["id"]);
  }

  #required(chainId: string): number {
    const id = this.#idOf(chainId);
    if (id === undefined) throw new ImageError("NotFound", `layer ${chainId} is not unpacked`);
    return id;
  }

  #active(key: string): { id: number; parent: number | null } | undefined {
    const row = this.#database.sql.prepare("SELECT id, parent FROM snapshots WHERE key = ?").get(key);
    return row === undefined ? undefined : { id: Number(row["id"]), parent: row["parent"] as number | null };
  }

  #insert(kind: "draft" | "active", key: string | null, parent: number | null): number {
    return this.#database.transaction((sql) =>
      Number(
        sql
          .prepare("INSERT INTO snapshots (kind, key, parent, created_at) VALUES (?, ?, ?, ?)")
          .run(kind, key, parent, Date.now()).lastInsertRowid,
      ),
    );
  }

  #forget(id: number): void {
    this.#database.transaction((sql) => sql.prepare("DELETE FROM snapshots WHERE id = ?").run(id));
  }

  #forgetWithAllAbove(id: number): void {
    this.#database.transaction((sql) =>
      sql
        .prepare(`
      WITH RECURSIVE above (id) AS (SELECT ? UNION SELECT snapshots.id FROM snapshots JOIN above ON parent = above.id)
      DELETE FROM snapshots WHERE id IN above`)
        .run(id),
    );
  }

  async #removeDirectories(ids: readonly number[]): Promise<void> {
    await this.#removePaths(ids.map((id) => join(this.#root, String(id))));
  }

  async #removePaths(paths: readonly string[]): Promise<void> {
    if (paths.length === 0) return;
    const plan: Plan = { orders: paths.map((path) => ({ order: "remove_tree", args: { path } })) };
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

/** The merged root directory shows the attributes of the topmost layer's. */
async function copyRootAttributes(from: string | Buffer, to: string): Promise<void> {
  const { mode, uid, gid, atime, mtime } = await stat(from);
  await chown(to, uid, gid);
  await chmod(to, mode & 0o7777);
  await utimes(to, atime, mtime);
}
