/** The snapshots table. */
import { ImageError } from "../errors.ts";
import type { Database } from "../store/database.ts";
import type { Usage } from "../types.ts";
import type { LayerFormatName } from "./layer-files.ts";
import { decodeSeal, encodeSeal, type Seal, type Verity } from "./seal.ts";
import type { SnapshotInfo } from "./snapshotter.ts";

/** How a writable layer becomes a root file system. */
export type ActiveFormat = "overlay" | "copy";

/** Drafts, writable layers, the layers of the chain ids in the parameter (a JSON array), and all that these build on. */
const USED = `
  WITH RECURSIVE used (id) AS (
    SELECT id FROM snapshots WHERE kind <> 'layer' OR chain_id IN (SELECT value FROM json_each(?))
    UNION SELECT parent FROM snapshots JOIN used USING (id) WHERE parent IS NOT NULL
  )`;

const COLUMNS = "id, kind, chain_id, key, parent, bytes, inodes, format";

export interface ChainRow {
  readonly id: number;
  readonly format: LayerFormatName;
  readonly opaque: readonly string[];
  readonly seal: Seal | undefined;
}

/** What a layer is on disk. */
export interface Kept {
  readonly usage: Usage;
  readonly opaque: readonly string[];
  readonly seal: Seal | undefined;
}

export interface ActiveRow {
  readonly id: number;
  readonly parent: number | null;
  readonly format: ActiveFormat;
}

export class SnapshotRows {
  readonly #database: Database;

  constructor(database: Database) {
    this.#database = database;
  }

  /** Of the layer `chainId` in that format, sealed so where that is wanted. */
  layer(chainId: string, format: LayerFormatName, verity: Verity | undefined): number | undefined {
    const row = this.#database.sql
      .prepare("SELECT id FROM snapshots WHERE chain_id = ? AND format = ? AND coalesce(seal, '') LIKE ?")
      .get(chainId, format, verity === undefined ? "%" : `${verity}:%`);
    return row === undefined ? undefined : Number(row["id"]);
  }

  active(key: string): ActiveRow | undefined {
    const row = this.#database.sql.prepare("SELECT id, parent, format FROM snapshots WHERE key = ?").get(key);
    if (row === undefined) return undefined;
    return { id: Number(row["id"]), parent: row["parent"] as number | null, format: row["format"] as ActiveFormat };
  }

  /** The layer and all beneath it, topmost first. */
  chain(id: number): ChainRow[] {
    const rows = this.#database.sql
      .prepare(`
      WITH RECURSIVE chain (id, parent, opaque, format, seal, depth) AS (
        SELECT id, parent, opaque, format, seal, 0 FROM snapshots WHERE id = ?
        UNION ALL SELECT below.id, below.parent, below.opaque, below.format, below.seal, depth + 1
          FROM snapshots AS below JOIN chain ON below.id = chain.parent
      ) SELECT id, opaque, format, seal FROM chain ORDER BY depth`)
      .all(id);
    return rows.map((row) => ({
      id: Number(row["id"]),
      format: row["format"] as LayerFormatName,
      opaque: JSON.parse(String(row["opaque"])) as string[],
      seal: sealOf(row["seal"]),
    }));
  }

  /** Its id names its directory. */
  insert(kind: "draft" | "active", format: string, key: string | null, parent: number | null): number {
    return this.#database.transaction((sql) =>
      Number(
        sql
          .prepare("INSERT INTO snapshots (kind, format, key, parent, created_at) VALUES (?, ?, ?, ?, ?)")
          .run(kind, format, key, parent, Date.now()).lastInsertRowid,
      ),
    );
  }

  /** A draft becomes the layer `chainId`. One of another format by that name stays only for who uses it. */
  commit(id: number, chainId: string, parent: number | null, { usage, opaque, seal }: Kept, boot: string): void {
    this.#database.transaction((sql) => {
      sql.prepare("UPDATE snapshots SET chain_id = NULL WHERE chain_id = ?").run(chainId);
      sql
        .prepare(
          "UPDATE snapshots SET kind = 'layer', chain_id = ?, parent = ?, bytes = ?, inodes = ?, opaque = ?, seal = ?, boot = ? WHERE id = ?",
        )
        .run(
          chainId,
          parent,
          usage.bytes,
          usage.inodes,
          JSON.stringify(opaque),
          seal === undefined ? null : encodeSeal(seal),
          boot,
          id,
        );
    });
  }

  /** Layers whose files may not be on the disk yet, with the boot in which they were written. */
  unsettled(): { id: number; chainId: string | undefined; format: LayerFormatName; boot: string }[] {
    return this.#database.sql
      .prepare("SELECT id, chain_id, format, boot FROM snapshots WHERE boot IS NOT NULL")
      .all()
      .map((row) => ({
        id: Number(row["id"]),
        chainId: (row["chain_id"] as string | null) ?? undefined,
        format: row["format"] as LayerFormatName,
        boot: String(row["boot"]),
      }));
  }

  settled(ids: readonly number[]): void {
    this.#database.transaction((sql) => {
      const update = sql.prepare("UPDATE snapshots SET boot = NULL WHERE id = ?");
      for (const id of ids) update.run(id);
    });
  }

  seal(id: number): Seal | undefined {
    return sealOf(this.#database.sql.prepare("SELECT seal FROM snapshots WHERE id = ?").get(id)?.["seal"]);
  }

  /** The layer `id` has the files that were written in `boot` now. */
  unsettle(id: number, boot: string): void {
    this.#database.transaction((sql) => sql.prepare("UPDATE snapshots SET boot = ? WHERE id = ?").run(boot, id));
  }

  forget(id: number): void {
    this.#database.transaction((sql) => sql.prepare("DELETE FROM snapshots WHERE id = ?").run(id));
  }

  forgetWithAllAbove(id: number): void {
    this.#database.transaction((sql) =>
      sql
        .prepare(`
      WITH RECURSIVE above (id) AS (SELECT ? UNION SELECT snapshots.id FROM snapshots JOIN above ON parent = above.id)
      DELETE FROM snapshots WHERE id IN above`)
        .run(id),
    );
  }

  forgetDrafts(): number[] {
    return this.#database.transaction((sql) =>
      sql
        .prepare("DELETE FROM snapshots WHERE kind = 'draft' RETURNING id")
        .all()
        .map((row) => Number(row["id"])),
    );
  }

  /** Whether `forgetUnused` would find something. */
  hasUnused(keep: ReadonlySet<string>): boolean {
    return (
      this.#database.sql
        .prepare(`${USED} SELECT 1 FROM snapshots WHERE id NOT IN used LIMIT 1`)
        .get(JSON.stringify([...keep])) !== undefined
    );
  }

  /** Bytes of all layers, and of those that `keep` and writable layers are made of. */
  layerUsage(keep: ReadonlySet<string>): { bytes: number; kept: number } {
    const row = this.#database.sql
      .prepare(
        `${USED} SELECT coalesce(sum(bytes), 0) AS bytes, coalesce(sum(bytes) FILTER (WHERE id IN used), 0) AS kept
         FROM snapshots WHERE kind = 'layer'`,
      )
      .get(JSON.stringify([...keep]));
    return { bytes: Number(row?.["bytes"] ?? 0), kept: Number(row?.["kept"] ?? 0) };
  }

  forgetUnused(keep: ReadonlySet<string>): number[] {
    const gone = this.#database.transaction((sql) =>
      sql.prepare(`${USED} DELETE FROM snapshots WHERE id NOT IN used RETURNING id`).all(JSON.stringify([...keep])),
    );
    return gone.map((row) => Number(row["id"]));
  }

  /** Layers that writable ones are on. */
  usedByActive(): number[] {
    const rows = this.#database.sql
      .prepare(`
      WITH RECURSIVE used (id) AS (
        SELECT parent FROM snapshots WHERE kind = 'active'
        UNION SELECT parent FROM snapshots JOIN used USING (id)
      ) SELECT id FROM used WHERE id IS NOT NULL`)
      .all();
    return rows.map((row) => Number(row["id"]));
  }

  list(): SnapshotInfo[] {
    return this.#database.sql
      .prepare(`SELECT ${COLUMNS} FROM snapshots ORDER BY id`)
      .all()
      .map((row) => ({
        id: Number(row["id"]),
        kind: row["kind"] as SnapshotInfo["kind"],
        format: String(row["format"]),
        chainId: (row["chain_id"] as string | null) ?? undefined,
        key: (row["key"] as string | null) ?? undefined,
        parent: (row["parent"] as number | null) ?? undefined,
        usage: { bytes: Number(row["bytes"]), inodes: Number(row["inodes"]) },
      }));
  }
}

const sealOf = (text: unknown): Seal | undefined => (typeof text === "string" ? decodeSeal(text) : undefined);

export function unknownLayer(chainId: string | undefined): ImageError {
  return new ImageError("NotFound", `layer ${chainId} is not unpacked: pull the image again`);
}
