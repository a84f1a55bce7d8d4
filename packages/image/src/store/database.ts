import type { DatabaseSync } from "node:sqlite";
/** One step of a schema; applied once, in order, and recorded. */
export type Migration = string;

export declare class Database {
  /** Prepared statements and reads. Writes go through `transaction`. */
  readonly sql: DatabaseSync;
  /** Brings the tables named by `area` ("image", "cri") to the last of `steps`. Steps are never changed once released, only added. */
  migrate(area: string, steps: readonly Migration[]): void;
  /** BEGIN IMMEDIATE … COMMIT; rolled back if `work` throws. Synchronous: no other write can come between. */
  transaction<T>(work: (sql: DatabaseSync) => T): T;
  /** Resolves when all that was committed before survives a power cut. */
  sync(): Promise<void>;
  close(): Promise<void>;
}
export declare function openDatabase(root: string): Promise<Database>;
