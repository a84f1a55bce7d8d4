/** Leases: what is under way names what it needs before it looks whether that is there, so that collection keeps it. */
import { randomUUID } from "node:crypto";
import type { Database } from "./database.ts";

export class Lease {
  readonly id: string;
  readonly #database: Database;

  /** `temporary` leases end with the process: recovery drops them. */
  constructor(database: Database, temporary: boolean) {
    this.id = randomUUID();
    this.#database = database;
    database.transaction((sql) =>
      sql
        .prepare("INSERT INTO leases (id, temporary, created_at) VALUES (?, ?, ?)")
        .run(this.id, temporary ? 1 : 0, Date.now()),
    );
  }

  content(...digests: readonly string[]): void {
    this.#add("content", digests);
  }

  chains(...chainIds: readonly string[]): void {
    this.#add("chain", chainIds);
  }

  /** What only this lease kept may be collected from now on. */
  release(): void {
    this.#database.transaction((sql) => sql.prepare("DELETE FROM leases WHERE id = ?").run(this.id));
  }

  #add(kind: "content" | "chain", targets: readonly string[]): void {
    this.#database.transaction((sql) => {
      const insert = sql.prepare("INSERT OR IGNORE INTO lease_refs (lease, kind, target) VALUES (?, ?, ?)");
      for (const target of targets) insert.run(this.id, kind, target);
    });
  }
}

/** Ends the leases of processes that are gone. */
export function dropTemporaryLeases(database: Database): number {
  return database.transaction((sql) => Number(sql.prepare("DELETE FROM leases WHERE temporary = 1").run().changes));
}
