/** Reads a container's CRI log file, to its end or on and on: across rotation, truncation and the restart of whoever writes it. */
import { open, type FileHandle } from "node:fs/promises";
import { type LogRecord, parseRecord } from "./record.ts";
import { findTail } from "./tail.ts";
import { Waker } from "./waker.ts";

export interface ReadLogOptions {
  /** Only this many last lines of what is there. All without it. */
  readonly tail?: number | undefined;
  /** Only records of this time or later: milliseconds since the epoch. */
  readonly since?: number | undefined;
  /** Go on as the file grows, until this signal says that no more will come; what is there by then is still read. */
  readonly follow?: AbortSignal | undefined;
}

const CHUNK = 128 << 10;
const NEWLINE = 0x0a;

/** Throws the error of node:fs if the file cannot be read; with `follow`, waits for a file that is not there yet. */
export async function* readLog(path: string, options: ReadLogOptions = {}): AsyncGenerator<LogRecord> {
  for await (const batch of readLogBatches(path, options)) yield* batch;
}

/** As readLog, with all records that one read has brought at once: several times as fast. */
export async function* readLogBatches(
  path: string,
  options: ReadLogOptions = {},
): AsyncGenerator<readonly LogRecord[]> {
  const { since } = options;
  for await (const batch of batches(path, options)) {
    const wanted = since === undefined ? batch : batch.filter(({ time }) => Date.parse(time) >= since);
    if (wanted.length > 0) yield wanted;
  }
}

async function* batches(path: string, { tail, follow }: ReadLogOptions): AsyncGenerator<readonly LogRecord[]> {
  using waker = follow && new Waker(path, follow);
  const first = await openFirst(path, waker);
  if (!first) return;
  let cursor = await Cursor.at(first, tail);
  try {
    for (;;) {
      // Asked before reading: an end that comes while reading may come with more to read.
      const ended = waker?.ended ?? true;
      yield* cursor.read();
      const next = await successor(path, cursor);
      if (next) {
        yield* cursor.read();
        await cursor.close();
        cursor = new Cursor(next);
      } else if (ended || !waker) {
        return;
      } else {
        await waker.wait();
      }
    }
  } finally {
    await cursor.close();
  }
}

async function openFirst(path: string, waker: Waker | undefined): Promise<FileHandle | undefined> {
  for (;;) {
    const ended = waker?.ended ?? false;
    const file = await openIfThere(path);
    if (file) return file;
    if (!waker) return await open(path);
    if (ended) return undefined;
    await waker.wait();
  }
}

async function openIfThere(path: string): Promise<FileHandle | undefined> {
  try {
    return await open(path);
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === "ENOENT") return undefined;
    throw error;
  }
}

/** The file that has taken the path's place, once there is one: between a rename and ReopenContainerLog the old one is still written. */
async function successor(path: string, cursor: Cursor): Promise<FileHandle | undefined> {
  const candidate = await openIfThere(path);
  if (!candidate) return undefined;
  const [now, then] = await Promise.all([candidate.stat({ bigint: true }), cursor.file.stat({ bigint: true })]);
  if (now.ino !== then.ino || now.dev !== then.dev) return candidate;
  await candidate.close();
  return undefined;
}

class Cursor {
  readonly file: FileHandle;
  #offset = 0;
  #skip: ReadonlySet<number> = new Set();
  /** The pieces of a record whose newline has not come yet, and where it begins. */
  #pending: Buffer[] = [];
  #begin = 0;

  constructor(file: FileHandle) {
    this.file = file;
  }

  static async at(file: FileHandle, tail: number | undefined): Promise<Cursor> {
    const cursor = new Cursor(file);
    if (tail === undefined) return cursor;
    const { start, skip } = await findTail(file, (await file.stat()).size, tail);
    cursor.#offset = cursor.#begin = start;
    cursor.#skip = skip;
    return cursor;
  }

  /** Every record that is whole by now. */
  async *read(): AsyncGenerator<readonly LogRecord[]> {
    if ((await this.file.stat()).size < this.#offset) this.#restart();
    for (;;) {
      const { bytesRead, buffer } = await this.file.read(Buffer.allocUnsafe(CHUNK), 0, CHUNK, this.#offset);
      if (bytesRead === 0) return;
      this.#offset += bytesRead;
      yield [...this.#split(buffer.subarray(0, bytesRead))];
    }
  }

  *#split(chunk: Buffer): Generator<LogRecord> {
    let from = 0;
    for (let newline = chunk.indexOf(NEWLINE); newline >= 0; newline = chunk.indexOf(NEWLINE, from)) {
      const piece = chunk.subarray(from, newline);
      const line = this.#pending.length === 0 ? piece : Buffer.concat([...this.#pending, piece]);
      const begin = this.#begin;
      this.#pending = [];
      this.#begin += line.length + 1;
      from = newline + 1;
      const record = this.#skip.has(begin) ? undefined : parseRecord(line);
      if (record) yield record;
    }
    if (from < chunk.length) this.#pending.push(chunk.subarray(from));
  }

  /** The file was truncated in place, as logrotate's copytruncate does. */
  #restart(): void {
    this.#offset = this.#begin = 0;
    this.#pending = [];
    this.#skip = new Set();
  }

  async close(): Promise<void> {
    await this.file.close();
  }
}
