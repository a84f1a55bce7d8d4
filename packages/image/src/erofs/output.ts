/** A file that is written from start to end, in large writes that go on while the next is gathered. */
import { type FileHandle, open } from "node:fs/promises";
import { align, BLOCK } from "./format.ts";

const BUFFER = 1 << 20;
/** Shorter runs of zeros are written; longer ones are left out of the file, which so has a hole. */
const ZEROS_MAX = 64 << 10;

export class Output {
  readonly #file: FileHandle;
  #buffer: Buffer = Buffer.allocUnsafe(BUFFER);
  #spare: Buffer = Buffer.allocUnsafe(BUFFER);
  #filled = 0;
  /** Where the buffer's first byte belongs. */
  #base: number;
  #writing: Promise<void> = Promise.resolve();
  readonly #syncEvery: number;
  #syncing: Promise<void> | undefined;
  #unsynced = 0;

  private constructor(file: FileHandle, at: number, syncEvery: number) {
    this.#file = file;
    this.#base = at;
    this.#syncEvery = syncEvery;
  }

  /**
   * Makes the file, or with `at` goes on in an existing one from there. After every `syncEvery` bytes the disk is given
   * work, for a file that is to be synced as soon as it is whole.
   */
  static async open(
    path: string,
    { at, syncEvery = Infinity }: { at?: number; syncEvery?: number } = {},
  ): Promise<Output> {
    return new Output(await open(path, at === undefined ? "wx" : "r+", 0o600), at ?? 0, syncEvery);
  }

  get position(): number {
    return this.#base + this.#filled;
  }

  async write(bytes: Uint8Array): Promise<void> {
    for (let at = 0; at < bytes.length;) {
      if (this.#filled === BUFFER) await this.#flush();
      const piece = bytes.subarray(at, at + BUFFER - this.#filled);
      this.#buffer.set(piece, this.#filled);
      this.#filled += piece.length;
      at += piece.length;
    }
  }

  async zeros(length: number): Promise<void> {
    if (length >= ZEROS_MAX) {
      await this.#flush();
      this.#base += length;
      return;
    }
    for (let left = length; left > 0;) {
      if (this.#filled === BUFFER) await this.#flush();
      const size = Math.min(left, BUFFER - this.#filled);
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
    await this.#flush();
    await this.#writing;
    if (first !== undefined) await writeAll(this.#file, first, 0);
    await this.#file.truncate(length);
    if (sync) await this.#file.datasync();
  }

  async close(): Promise<void> {
    await Promise.allSettled([this.#writing, this.#syncing]);
    await this.#file.close();
  }

  async #flush(): Promise<void> {
    if (this.#filled === 0) return;
    await this.#writing;
    const [full, filled, base] = [this.#buffer, this.#filled, this.#base];
    this.#buffer = this.#spare;
    this.#spare = full;
    this.#base += filled;
    this.#filled = 0;
    this.#writing = writeAll(this.#file, full.subarray(0, filled), base);
    this.#writing.catch(() => undefined);
    this.#unsynced += filled;
    if (this.#unsynced >= this.#syncEvery && this.#syncing === undefined) this.#startSync();
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

async function writeAll(file: FileHandle, bytes: Uint8Array, position: number): Promise<void> {
  for (let at = 0; at < bytes.length;)
    at += (await file.write(bytes, at, bytes.length - at, position + at)).bytesWritten;
}
