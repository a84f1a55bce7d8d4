/**
 * The pods or containers that exist: in memory, and as rows of the daemon's database, written before the step that they speak
 * of is taken. A name is reserved with its record, in one transaction with it.
 */
import type { DatabaseSync } from "node:sqlite";
import { status } from "@grpc/grpc-js";
import { CriError, notFound } from "../errors.ts";
import type { Row } from "./records-codec.ts";

interface Codec<R> {
  encode(record: R): Row;
  decode(row: Row): R;
}

export interface StoreOptions<R> {
  readonly database: DatabaseSync;
  readonly table: "sandboxes" | "containers";
  /** For messages: "pod sandbox", "container". */
  readonly kind: string;
  readonly codec: Codec<R>;
  /** The name that no two records may share. */
  readonly nameOf: (record: R) => string;
  /** Told of a change that the full disk has no room for. */
  readonly onFull?: ((error: Error, id: string) => void) | undefined;
}

/** https://sqlite.org/rescode.html: SQLITE_FULL, and SQLITE_IOERR where the file system said it to a mapped or synced write. */
const FULL: readonly number[] = [13, 10];
const isFull = (error: unknown): error is Error =>
  error instanceof Error && FULL.includes(((error as Error & { errcode?: number }).errcode ?? 0) & 0xff);

export class Store<R extends { readonly id: string }, I extends { readonly record: R }> {
  readonly #options: StoreOptions<R>;
  readonly #items = new Map<string, I>();
  /** By id: the change that waits for room on the disk. */
  readonly #behind = new Map<string, () => void>();
  readonly #ids = new Map<string, string>();
  readonly #insert;
  readonly #update;
  readonly #rewrite;
  readonly #drop;

  constructor(options: StoreOptions<R>) {
    this.#options = options;
    const { database, table } = options;
    database.exec(
      `CREATE TABLE IF NOT EXISTS ${table} (id TEXT PRIMARY KEY, record TEXT NOT NULL, config BLOB NOT NULL) STRICT`,
    );
    this.#insert = database.prepare(`INSERT INTO ${table} (id, record, config) VALUES (?, ?, ?)`);
    this.#update = database.prepare(`UPDATE ${table} SET record = ? WHERE id = ?`);
    this.#rewrite = database.prepare(`UPDATE ${table} SET record = ?, config = ? WHERE id = ?`);
    this.#drop = database.prepare(`DELETE FROM ${table} WHERE id = ?`);
  }

  /** The records that an earlier daemon left; the caller adopts or removes each. */
  load(): R[] {
    const rows = this.#options.database
      .prepare(`SELECT id, record, config FROM ${this.#options.table} ORDER BY rowid`)
      .all();
    return rows.map((row) => this.#options.codec.decode(row as unknown as Row));
  }

  /** Adds a new item and reserves its name; AlreadyExists names the id that has it. */
  add(item: I): void {
    const name = this.#options.nameOf(item.record);
    const holder = this.#ids.get(name);
    if (holder !== undefined) {
      throw new CriError(
        status.ALREADY_EXISTS,
        `${this.#options.kind} name "${name}" is reserved for "${holder}"; remove that one first`,
      );
    }
    const row = this.#options.codec.encode(item.record);
    this.#insert.run(row.id, row.record, row.config);
    this.#hold(name, item);
  }

  /** Takes over an item whose row an earlier daemon wrote. */
  adopt(item: I): void {
    this.#hold(this.#options.nameOf(item.record), item);
  }

  #hold(name: string, item: I): void {
    this.#ids.set(name, item.record.id);
    this.#items.set(item.record.id, item);
  }

  /**
   * Writes what has changed; an item that was deleted meanwhile stays deleted. A full disk does not stop what is under way (the
   * stop and removal of things is what makes room): the change is written with the next one that there is room for, and a
   * restart before that finds the truth at the monitors.
   */
  save(item: I): void {
    const { id } = item.record;
    this.#write(id, () => {
      const row = this.#options.codec.encode(item.record);
      this.#update.run(row.record, id);
    });
  }

  #write(id: string, run: () => void): void {
    this.#behind.delete(id);
    try {
      run();
    } catch (error) {
      if (!isFull(error)) throw error;
      this.#behind.set(id, run);
      this.#options.onFull?.(error, id);
      return;
    }
    const [late] = this.#behind;
    if (late) this.#write(...late);
  }

  /** As save, with the configuration, which few calls change. */
  saveConfig(item: I): void {
    const row = this.#options.codec.encode(item.record);
    this.#rewrite.run(row.record, row.config, row.id);
  }

  delete(item: I): void {
    const { id } = item.record;
    this.#write(id, () => this.#drop.run(id));
    this.#items.delete(item.record.id);
    this.#ids.delete(this.#options.nameOf(item.record));
  }

  /** By id or by an unambiguous prefix of one. */
  find(id: string): I | undefined {
    const exact = this.#items.get(id);
    if (exact || id === "") return exact;
    let found: I | undefined;
    for (const [key, item] of this.#items) {
      if (!key.startsWith(id)) continue;
      if (found)
        throw new CriError(status.INVALID_ARGUMENT, `${this.#options.kind} id "${id}" is ambiguous; give more of it`);
      found = item;
    }
    return found;
  }

  /** As find; NotFound otherwise. */
  get(id: string): I {
    const item = this.find(id);
    if (!item) throw notFound(this.#options.kind, id);
    return item;
  }

  get size(): number {
    return this.#items.size;
  }

  values(): I[] {
    return [...this.#items.values()];
  }
}
