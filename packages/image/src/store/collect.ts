/** Mark and sweep: what no image, lease or container reaches is removed. */
import type { Snapshotter } from "../snapshots/snapshotter.ts";
import type { Catalog } from "./catalog.ts";
import type { ContentStore } from "./content.ts";
import type { Database } from "./database.ts";

export interface CollectorOptions {
  readonly database: Database;
  readonly content: ContentStore;
  readonly snapshotter: Snapshotter;
  readonly catalog: Catalog;
}

const REACHABLE = `
  WITH RECURSIVE reachable (digest) AS (
    SELECT target FROM images UNION SELECT manifest FROM images UNION SELECT target FROM lease_refs WHERE kind = 'content'
    UNION SELECT child FROM content_refs JOIN reachable ON parent = digest
  )`;

export class Collector {
  readonly #options: CollectorOptions;
  #running: Promise<unknown> = Promise.resolve();

  constructor(options: CollectorOptions) {
    this.#options = options;
  }

  /** Whether there are layers that nothing needs: cheap enough to ask after every container. */
  hasGarbage(): boolean {
    return this.#options.snapshotter.hasUnused(this.#chains());
  }

  /** Resolves to how many blobs and layers went, once their space is free. One collection runs at a time. */
  async collect(): Promise<number> {
    const run = this.#running.then(async () => await this.#collect());
    this.#running = run.catch(() => undefined);
    return await run;
  }

  async #collect(): Promise<number> {
    const { database, content, snapshotter } = this.#options;
    // Marking, dropping the rows and moving the files away are one turn of the loop: no pull comes between.
    const blobs = this.#unreachable();
    const layers = database.transaction((sql) => {
      const drop = sql.prepare("DELETE FROM content WHERE digest = ?");
      const dropRefs = sql.prepare("DELETE FROM content_refs WHERE parent = ?");
      for (const digest of blobs) {
        drop.run(digest);
        dropRefs.run(digest);
      }
      return snapshotter.collect(this.#chains());
    });
    for (const digest of blobs) content.trash(digest);
    await content.emptyTrash();
    await snapshotter.sweep();
    return blobs.length + layers;
  }

  #unreachable(): string[] {
    const { database, content } = this.#options;
    const rows = database.sql
      .prepare(`${REACHABLE} SELECT digest FROM content WHERE digest NOT IN (SELECT digest FROM reachable)`)
      .all();
    const pending = content.pending();
    if (pending.length === 0) return rows.map((row) => String(row["digest"]));
    const reachable = new Set(
      database.sql
        .prepare(`${REACHABLE} SELECT digest FROM reachable`)
        .all()
        .map((row) => String(row["digest"])),
    );
    return [...rows.map((row) => String(row["digest"])), ...pending.filter((digest) => !reachable.has(digest))];
  }

  #chains(): Set<string> {
    const leased = this.#options.database.sql
      .prepare("SELECT DISTINCT target FROM lease_refs WHERE kind = 'chain'")
      .all();
    return new Set([...this.#options.catalog.chains(), ...leased.map((row) => String(row["target"]))]);
  }
}
