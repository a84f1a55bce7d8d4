/** SPDY/3.1 header blocks (draft 3.1, section 2.6.10): one zlib stream per direction and connection, flushed after each block. */
import { constants, createInflate, type Inflate } from "node:zlib";
import { DICTIONARY } from "./dictionary.ts";

export type Headers = ReadonlyMap<string, string>;

/** Bytes of one block, uncompressed: a few times what any client sends, and too little to hurt. */
const MOST_BYTES = 64 << 10;
const INFLATE_CHUNK = 4096;

/** The block cannot be one; the zlib stream is out of step from here on, and with it the connection. */
export class HeaderError extends Error {}

export class HeaderInflater {
  readonly #inflate: Inflate = createInflate({
    dictionary: DICTIONARY,
    finishFlush: constants.Z_SYNC_FLUSH,
    flush: constants.Z_SYNC_FLUSH,
    chunkSize: INFLATE_CHUNK,
  });
  #failure: Error | undefined;
  #parts: Buffer[] = [];
  #size = 0;

  constructor() {
    this.#inflate.on("error", (error) => (this.#failure ??= error));
    this.#inflate.on("data", (part: Buffer) => {
      this.#size += part.length;
      if (this.#size > MOST_BYTES) this.#inflate.destroy(new HeaderError(`headers of more than ${MOST_BYTES} bytes`));
      else this.#parts.push(part);
    });
  }

  /** Blocks must be given in the order they came, one at a time. Rejects with HeaderError. */
  async read(block: Buffer): Promise<Headers> {
    const { promise, resolve } = Promise.withResolvers<void>();
    // A write's callback comes when all of it has been inflated; the output of it has been emitted before.
    this.#inflate.write(block, () => resolve());
    this.#inflate.once("close", resolve);
    await promise;
    this.#inflate.off("close", resolve);
    if (this.#failure || this.#inflate.destroyed) throw new HeaderError(this.#failure?.message ?? "closed");
    const bytes = Buffer.concat(this.#parts);
    this.#parts = [];
    this.#size = 0;
    return parse(bytes);
  }

  close(): void {
    this.#inflate.destroy();
  }
}

function parse(bytes: Buffer): Headers {
  const headers = new Map<string, string>();
  let at = 0;
  const number = (): number => {
    if (at + 4 > bytes.length) throw new HeaderError("a header block that ends early");
    at += 4;
    return bytes.readUInt32BE(at - 4);
  };
  const text = (): string => {
    const size = number();
    if (size > bytes.length - at) throw new HeaderError("a header block that ends early");
    at += size;
    return bytes.toString("utf8", at - size, at);
  };
  for (let left = number(); left > 0; left--) {
    const name = text().toLowerCase();
    if (headers.has(name)) throw new HeaderError(`two headers "${name}"`);
    headers.set(name, text());
  }
  return headers;
}

/**
 * The writing side has so little to say (the headers of a SYN_REPLY: none) that its zlib stream is one of stored blocks: valid,
 * and without the quarter of a megabyte that a compressor holds per connection.
 */
export class HeaderWriter {
  #begun = false;

  write(headers: Headers): Buffer {
    const parts = [uint32(headers.size)];
    for (const [name, value] of headers) {
      for (const text of [name, value]) {
        const bytes = Buffer.from(text);
        parts.push(uint32(bytes.length), bytes);
      }
    }
    const block = Buffer.concat(parts);
    if (block.length > 0xffff) throw new RangeError("headers of more than 65535 bytes");
    const stored = Buffer.alloc(5);
    stored.writeUInt16LE(block.length, 1);
    stored.writeUInt16LE(block.length ^ 0xffff, 3);
    const begin = this.#begun ? [] : [ZLIB_HEADER, uint32(adler32(DICTIONARY))];
    this.#begun = true;
    return Buffer.concat([...begin, stored, block, SYNC]);
  }
}

/** RFC 1950: deflate, 32 KB window, FDICT; a multiple of 31 as it is. */
const ZLIB_HEADER = Buffer.of(0x78, 0x20);

/** The empty block that ends a flush: without it Go's reader waits for the next block before it gives this one out. */
const SYNC = Buffer.of(0, 0, 0, 0xff, 0xff);

function adler32(bytes: Buffer): number {
  let [a, b] = [1, 0];
  for (const byte of bytes) {
    a = (a + byte) % 65521;
    b = (b + a) % 65521;
  }
  return ((b << 16) | a) >>> 0;
}

function uint32(value: number): Buffer {
  const bytes = Buffer.alloc(4);
  bytes.writeUInt32BE(value);
  return bytes;
}
