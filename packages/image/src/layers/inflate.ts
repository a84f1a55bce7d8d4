/** Decompression of a layer by what it is, not by what its media type says: gzip, zstd or plain tar. */
import type { Hash } from "node:crypto";
import type { Transform } from "node:stream";
import { constants, createGunzip, createZstdDecompress } from "node:zlib";
import { ImageError } from "../errors.ts";

export type Compression = "gzip" | "zstd" | "none";

/** Large enough that hops to the thread pool cost little, small enough that three layers at a time need little memory. */
const CHUNK = 256 * 1024;
/**
 * Inflating runs ahead of the reader by so many chunks, so that both are at work: with Node's default it would stop after
 * each one. As objects: bytes that are read in one go would be joined, a copy of all of them.
 */
const AHEAD = { chunkSize: CHUNK, readableObjectMode: true, readableHighWaterMark: 4, writableHighWaterMark: CHUNK };
/** 128 MiB, what `zstd --long` needs at most without a flag; more is refused. */
const WINDOW_LOG_MAX = 27;
const GZIP = [0x1f, 0x8b];
const ZSTD = [0x28, 0xb5, 0x2f, 0xfd];

export function compressionOf(start: Uint8Array): Compression {
  if (GZIP.every((byte, i) => start[i] === byte)) return "gzip";
  if (ZSTD.every((byte, i) => start[i] === byte)) return "zstd";
  // A zstd stream may begin with a skippable frame (zstd:chunked and estargz-like formats): 0x184D2A50 to 0x184D2A5F.
  if (
    start.length >= 4 &&
    ((start[0] as number) & 0xf0) === 0x50 &&
    start[1] === 0x2a &&
    start[2] === 0x4d &&
    start[3] === 0x18
  )
    return "zstd";
  return "none";
}

/**
 * The decompressed bytes of `source`. Throws InvalidImage on corrupt data; errors of `source` pass as they are. `used` gets
 * each of its chunks that is read and not passed on.
 */
export async function* inflate(
  source: AsyncIterable<Uint8Array>,
  used: (chunk: Uint8Array) => void = () => undefined,
): AsyncGenerator<Uint8Array, void, undefined> {
  const { start, rest } = await peek(source, 4);
  const compression = compressionOf(start);
  if (compression === "none") {
    yield* rest;
    return;
  }
  const engine =
    compression === "gzip"
      ? createGunzip(AHEAD)
      : createZstdDecompress({ ...AHEAD, params: { [constants.ZSTD_d_windowLogMax]: WINDOW_LOG_MAX } });
  let failure: Error | undefined;
  const fed = feed(rest, engine, used).catch((error: Error) => {
    failure = error;
    engine.destroy(error);
  });
  try {
    for await (const chunk of engine) yield chunk as Uint8Array;
    await fed;
  } catch (error) {
    throw (
      failure ??
      new ImageError("InvalidImage", `corrupt ${compression} data: ${(error as Error).message}`, { cause: error })
    );
  } finally {
    engine.destroy();
  }
  if (failure !== undefined) throw failure;
}

/** All of `source` is read, even where the engine sees its end before (padding), as its digest covers all of it. */
async function feed(
  source: AsyncIterable<Uint8Array>,
  engine: Transform,
  used: (chunk: Uint8Array) => void,
): Promise<void> {
  for await (const chunk of source) {
    if (engine.destroyed && !engine.readableEnded) return;
    if (engine.readableEnded || engine.write(chunk, (error) => (error ? undefined : used(chunk)))) continue;
    await roomIn(engine);
  }
  engine.end();
}

/** Resolves when the engine takes more, or never will. */
function roomIn(engine: Transform): Promise<void> {
  return new Promise((resolve) => {
    const events = ["drain", "end", "close"] as const;
    const done = (): void => {
      for (const event of events) engine.off(event, done);
      resolve();
    };
    for (const event of events) engine.on(event, done);
  });
}

/** Passes chunks through a running digest. `used` gets each once the next one is asked for. */
export async function* hashed(
  source: AsyncIterable<Uint8Array>,
  hash: Hash,
  used: (chunk: Uint8Array) => void = () => undefined,
): AsyncGenerator<Uint8Array, void, undefined> {
  for await (const chunk of source) {
    hash.update(chunk);
    yield chunk;
    used(chunk);
  }
}

/** The first `size` bytes (fewer if the stream ends before), and the whole stream again. */
async function peek(
  source: AsyncIterable<Uint8Array>,
  size: number,
): Promise<{ start: Uint8Array; rest: AsyncIterable<Uint8Array> }> {
  const iterator = source[Symbol.asyncIterator]();
  const held: Uint8Array[] = [];
  let length = 0;
  while (length < size) {
    const next = await iterator.next();
    if (next.done === true) break;
    held.push(next.value);
    length += next.value.length;
  }
  async function* rest(): AsyncGenerator<Uint8Array, void, undefined> {
    try {
      yield* held;
      for (let next = await iterator.next(); next.done !== true; next = await iterator.next()) yield next.value;
    } finally {
      await iterator.return?.(undefined);
    }
  }
  return { start: Buffer.concat(held).subarray(0, size), rest: rest() };
}
