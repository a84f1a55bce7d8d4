/** A file that is written from start to end, in large writes that go on while the next is gathered. */
import { constants } from "node:fs";
import { type FileHandle, open, rm } from "node:fs/promises";
import { BLOCK_SIZE, giveBlock, takeBlock } from "./blocks.ts";
import { align, BLOCK } from "./format.ts";

/** Shorter runs of zeros are written; longer ones are left out of the file, which so has a hole. */
const ZEROS_MAX = 64 << 10;
/** Where there is no O_DIRECT: after so many bytes the disk is given work. */
const SYNC_EVERY = 32 << 20;

export interface OutputOptions {
  /** Goes on in an existing file from there; else the file is made. */
  readonly at?: number;
  /**
   * For a file that is on the disk before anyone hears of it, and not read again soon: it is written past the page cache
   * (O_DIRECT) where the file system can do that, and otherwise synced as it grows.
   */
  readonly direct?: boolean;
}

export class Output {
  #file: FileHandle;
  readonly #path: string;
  #direct: boolean;
  readonly #syncEvery: number;
  #buffer = takeBlock();
  #spare: Uint8Array<ArrayBuffer> | undefined;
  #filled = 0;
  /** Where the buffer's first byte belongs. */
  #base: number;
  #writing: Promise<void> = Promise.resolve();
  #syncing: Promise<void> | undefined;
  #unsynced = 0;

  private constructor(file: FileHandle, path: string, { at = 0, direct = false }: OutputOptions, isDirect: boolean) {
    this.#file = file;
    this.#path = path;
    this.#base = at;
    this.#direct = isDirect;
    this.#syncEvery = direct ? SYNC_EVERY : Infinity;
  }

  static async open(path: string, options: OutputOptions = {}): Promise<Output> {
    if (options.direct === true && options.at === undefined) {
      const file = await openDirect(path);
      if (file !== undefined) return new Output(file, path, options, true);
    }
    return new Output(await open(path, options.at === undefined ? "wx" : "r+", 0o600), path, options, false);
  }

  get position(): number {
    return this.#base + this.#filled;
  }

  async write(bytes: Uint8Array): Promise<void> {
    for (let at = 0; at < bytes.length;) {
      if (this.#filled === BLOCK_SIZE) await this.#flush();
      const piece = bytes.subarray(at, at + BLOCK_SIZE - this.#filled);
      this.#buffer.set(piece, this.#filled);
      this.#filled += piece.length;
      at += piece.length;
    }
  }

  async zeros(length: number): Promise<void> {
    if (length >= ZEROS_MAX && !this.#direct) {
      await this.#flush();
      this.#base += length;
      return;
    }
    for (let left = length; left > 0;) {
      if (this.#filled === BLOCK_SIZE) await this.#flush();
      const size = Math.min(left, BLOCK_SIZE - this.#filled);
      this.#buffer.fill(0, this.#filled, this.#filled + size);
      this.#filled += size;
      left -= size;
    }
  }

  /** Zeros up to the next block. */
  async toBlock(): Promise<void> {
    await this.zeros(align(this.position, BLOCK) - this.position);
  }

  /** Writes what is gathered, and `first` over the start of the file. With `sync` resolves once all is on the disk. */
  async end(first: Uint8Array | undefined, sync: boolean): Promise<void> {
    const length = this.position;
    // O_DIRECT takes whole blocks only; what is too much is cut off again.
    if (this.#direct) await this.toBlock();
    await this.#flush();
    await this.#writing;
    if (first !== undefined) await writeAll(this.#file, first, 0);
    await this.#file.truncate(length);
    if (sync) await this.#file.datasync();
  }

  async close(): Promise<void> {
    await Promise.allSettled([this.#writing, this.#syncing]);
    await this.#file.close();
    // Only now, as no write reads them any more.
    giveBlock(this.#buffer);
    if (this.#spare !== undefined) giveBlock(this.#spare);
  }

  async #flush(): Promise<void> {
    if (this.#filled === 0) return;
    await this.#writing;
    const [full, filled, base] = [this.#buffer, this.#filled, this.#base];
    this.#buffer = this.#spare ?? takeBlock();
    this.#spare = full;
    this.#base += filled;
    this.#filled = 0;
    this.#writing = this.#put(full.subarray(0, filled), base);
    this.#writing.catch(() => undefined);
    this.#unsynced += filled;
    if (!this.#direct && this.#unsynced >= this.#syncEvery && this.#syncing === undefined) this.#startSync();
  }

  async #put(bytes: Uint8Array, position: number): Promise<void> {
    try {
      await writeAll(this.#file, bytes, position);
    } catch (error) {
      // A file system that takes the flag, and then wants larger blocks than it gets.
      if (!this.#direct || (error as NodeJS.ErrnoException).code !== "EINVAL") throw error;
      await this.#file.close();
      this.#file = await open(this.#path, "r+");
      this.#direct = false;
      await writeAll(this.#file, bytes, position);
    }
  }

  #startSync(): void {
    this.#unsynced = 0;
    this.#syncing = this.#writing
      .then(async () => await this.#file.datasync())
      // A failure is the last sync's to tell.
      .catch(() => undefined)
      .finally(() => (this.#syncing = undefined));
  }
}

/** Undefined: the file system has no such thing. */
async function openDirect(path: string): Promise<FileHandle | undefined> {
  const { O_WRONLY, O_CREAT, O_EXCL, O_DIRECT } = constants;
  try {
    return await open(path, O_WRONLY | O_CREAT | O_EXCL | O_DIRECT, 0o600);
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code !== "EINVAL") throw error;
    // The file may have been made before its flag was looked at.
    await rm(path, { force: true });
    return undefined;
  }
}

async function writeAll(file: FileHandle, bytes: Uint8Array, position: number): Promise<void> {
  for (let at = 0; at < bytes.length;)
    at += (await file.write(bytes, at, bytes.length - at, position + at)).bytesWritten;
}
