/**
 * Blobs by digest under <root>/content/blobs/<algorithm>/<hex>. A blob comes in through content/ingest, is verified, and
 * renamed; its row in the database is written once it is durable (`commit`). Until then it is pending: usable by this
 * process, removed by the next one.
 */
import { mkdir, open, readdir, readFile, rename, rm, stat } from "node:fs/promises";
import { renameSync } from "node:fs";
import { dirname, join } from "node:path";
import { isDigest, parseDigest, verifyDigest } from "@berth/spec/oci";
import { ImageError, toImageError } from "../errors.ts";
import { type Database, syncDirectory } from "./database.ts";

export class ContentStore {
  readonly #root: string;
  readonly #trash: string;
  readonly #database: Database;
  readonly #pending = new Map<string, number>();
  #ingests = 0;

  private constructor(root: string, database: Database) {
    this.#root = join(root, "content");
    this.#trash = join(root, "trash");
    this.#database = database;
  }

  static async open(root: string, database: Database): Promise<ContentStore> {
    const store = new ContentStore(root, database);
    for (const directory of [join(store.#root, "blobs", "sha256"), join(store.#root, "ingest"), store.#trash])
      await mkdir(directory, { recursive: true, mode: 0o700 });
    return store;
  }

  path(digest: string): string {
    const { algorithm, hex } = parseDigest(digest);
    return join(this.#root, "blobs", algorithm, hex);
  }

  /** A new file's path for a blob to be written to; `adopt` or `discard` ends it. */
  newIngest(): string {
    return join(this.#root, "ingest", `${process.pid}-${++this.#ingests}`);
  }

  /** Bytes, if the blob is here. */
  size(digest: string): number | undefined {
    const pending = this.#pending.get(digest);
    if (pending !== undefined) return pending;
    const row = this.#database.sql.prepare("SELECT size FROM content WHERE digest = ?").get(digest);
    return row === undefined ? undefined : Number(row["size"]);
  }

  has(digest: string): boolean {
    return this.size(digest) !== undefined;
  }

  /** Takes in an ingest whose content was verified while it was written. */
  async adopt(ingest: string, digest: string, size: number): Promise<void> {
    const path = this.path(digest);
    try {
      if (parseDigest(digest).algorithm !== "sha256") await mkdir(join(path, ".."), { recursive: true, mode: 0o700 });
      await rename(ingest, path);
    } catch (error) {
      throw toImageError(error, `store blob ${digest}`);
    }
    if (!this.has(digest)) this.#pending.set(digest, size);
  }

  async discard(ingest: string): Promise<void> {
    await rm(ingest, { force: true });
  }

  /** Stores a small blob; its row comes with `commit`. Throws DigestMismatch. */
  async put(digest: string, bytes: Uint8Array): Promise<void> {
    if (this.has(digest)) return;
    if (!verifyDigest(digest, bytes)) throw new ImageError("DigestMismatch", `content is not ${digest}`);
    const ingest = this.newIngest();
    try {
      const file = await open(ingest, "wx", 0o600);
      try {
        await file.writeFile(bytes);
      } finally {
        await file.close();
      }
    } catch (error) {
      await this.discard(ingest);
      throw toImageError(error, `store blob ${digest}`);
    }
    await this.adopt(ingest, digest, bytes.length);
  }

  /** The whole blob. Throws NotFound, or DigestMismatch if the disk lost it. */
  async read(digest: string): Promise<Buffer> {
    let bytes: Buffer;
    try {
      bytes = await readFile(this.path(digest));
    } catch (error) {
      if ((error as { code?: string }).code === "ENOENT")
        throw new ImageError("NotFound", `blob ${digest} is not in the content store`, { cause: error });
      throw toImageError(error, `read blob ${digest}`);
    }
    if (!verifyDigest(digest, bytes))
      throw new ImageError("DigestMismatch", `blob ${digest} is damaged on disk: remove the image and pull it again`);
    return bytes;
  }

  /** Which of these are pending. */
  pendingOf(digests: Iterable<string>): string[] {
    return [...digests].filter((digest) => this.#pending.has(digest));
  }

  /** Makes blobs durable, in the order that a power cut needs: content, then names. */
  async sync(digests: readonly string[]): Promise<void> {
    try {
      await Promise.all(digests.map((digest) => syncFile(this.path(digest))));
      for (const directory of new Set(digests.map((digest) => dirname(this.path(digest)))))
        await syncDirectory(directory);
    } catch (error) {
      throw toImageError(error, "sync the content store");
    }
  }

  /** Writes the rows of pending blobs, which the caller has made durable; part of the caller's transaction. */
  commit(digests: Iterable<string>): void {
    const insert = this.#database.sql.prepare(
      "INSERT OR IGNORE INTO content (digest, size, created_at) VALUES (?, ?, ?)",
    );
    for (const digest of digests) {
      const size = this.#pending.get(digest);
      if (size !== undefined) insert.run(digest, size, Date.now());
    }
  }

  /** After the transaction of `commit`. */
  committed(digests: Iterable<string>): void {
    for (const digest of digests) this.#pending.delete(digest);
  }

  /** Pending blobs that nobody leases any more. */
  pending(): string[] {
    return [...this.#pending.keys()];
  }

  /**
   * Moves a blob out of the store at once, in the same turn in which its row went, so that a pull that begins right after
   * cannot lose the one it brings. Its space is freed by `emptyTrash`.
   */
  trash(digest: string): void {
    this.#pending.delete(digest);
    try {
      renameSync(this.path(digest), join(this.#trash, `${process.pid}-${++this.#ingests}`));
    } catch (error) {
      if ((error as { code?: string }).code !== "ENOENT") throw toImageError(error, `remove blob ${digest}`);
    }
  }

  async emptyTrash(): Promise<number> {
    const names = await readdir(this.#trash);
    for (const name of names) await rm(join(this.#trash, name), { force: true, recursive: true });
    return names.length;
  }

  /** Bytes of all committed blobs, and of those that these manifests reach. */
  usageOf(manifests: readonly string[]): { bytes: number; kept: number } {
    const row = this.#database.sql
      .prepare(`
      WITH RECURSIVE kept (digest) AS (
        SELECT value FROM json_each(?)
        UNION SELECT target FROM images WHERE manifest IN (SELECT value FROM json_each(?))
        UNION SELECT child FROM content_refs JOIN kept ON parent = digest
      ) SELECT coalesce(sum(size), 0) AS kept FROM content WHERE digest IN (SELECT digest FROM kept)`)
      .get(JSON.stringify(manifests), JSON.stringify(manifests));
    return { bytes: this.usage().bytes, kept: Number(row?.["kept"] ?? 0) };
  }

  /** Digests of all committed blobs. */
  list(): string[] {
    return this.#database.sql
      .prepare("SELECT digest FROM content ORDER BY digest")
      .all()
      .map((row) => String(row["digest"]));
  }

  /** Removes a blob that is damaged. */
  async forget(digest: string): Promise<void> {
    this.#database.transaction((sql) => sql.prepare("DELETE FROM content WHERE digest = ?").run(digest));
    this.trash(digest);
    await this.emptyTrash();
  }

  /** Blobs without a row, as paths below the root. What is on its way in is none. */
  async strays(): Promise<string[]> {
    const strays: string[] = [];
    for (const algorithm of await readdir(join(this.#root, "blobs"))) {
      for (const hex of await readdir(join(this.#root, "blobs", algorithm))) {
        const digest = `${algorithm}:${hex}`;
        if (!isDigest(digest) || !this.has(digest)) strays.push(`content/blobs/${algorithm}/${hex}`);
      }
    }
    return strays;
  }

  async removeStray(path: string): Promise<void> {
    await rm(join(dirname(this.#root), path), { force: true, recursive: true });
  }

  /** Bytes of all committed blobs, and how many. */
  usage(): { bytes: number; count: number } {
    const row = this.#database.sql
      .prepare("SELECT coalesce(sum(size), 0) AS bytes, count(*) AS count FROM content")
      .get();
    return { bytes: Number(row?.["bytes"] ?? 0), count: Number(row?.["count"] ?? 0) };
  }

  /** After a crash: removes ingests, blobs without a row, and rows whose blob is gone or of another size. Returns what it did. */
  async recover(): Promise<string[]> {
    const done: string[] = [];
    for (const name of await readdir(join(this.#root, "ingest"))) {
      await rm(join(this.#root, "ingest", name), { force: true, recursive: true });
      done.push(`removed unfinished download ${name}`);
    }
    const trashed = await this.emptyTrash();
    if (trashed > 0) done.push(`emptied the trash of ${trashed} blobs`);
    const rows = new Map(
      this.#database.sql
        .prepare("SELECT digest, size FROM content")
        .all()
        .map((row) => [String(row["digest"]), Number(row["size"])]),
    );
    for (const digest of await this.#onDisk()) {
      if (rows.has(digest)) continue;
      await rm(this.path(digest), { force: true });
      done.push(`removed blob ${digest}, which is not in the database`);
    }
    for (const [digest, size] of rows) {
      const found = await stat(this.path(digest)).then(
        (file) => file.size,
        () => undefined,
      );
      if (found === size) continue;
      this.#database.transaction((sql) => sql.prepare("DELETE FROM content WHERE digest = ?").run(digest));
      await rm(this.path(digest), { force: true });
      done.push(
        `forgot blob ${digest}, which is ${found === undefined ? "not on disk" : `${found} bytes long instead of ${size}`}`,
      );
    }
    return done;
  }

  async #onDisk(): Promise<string[]> {
    const digests: string[] = [];
    for (const algorithm of await readdir(join(this.#root, "blobs"))) {
      for (const hex of await readdir(join(this.#root, "blobs", algorithm))) {
        const digest = `${algorithm}:${hex}`;
        if (isDigest(digest)) digests.push(digest);
        else await rm(join(this.#root, "blobs", algorithm, hex), { force: true, recursive: true });
      }
    }
    return digests;
  }
}

/** Of a file's content, or of a directory's names. */
export async function syncFile(path: string): Promise<void> {
  const file = await open(path, "r");
  try {
    await file.datasync();
  } finally {
    await file.close();
  }
}
