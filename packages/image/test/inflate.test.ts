import assert from "node:assert/strict";
import { createHash, randomBytes } from "node:crypto";
import test from "node:test";
import { gunzipSync, gzipSync, zstdCompressSync } from "node:zlib";
import { ImageError } from "../src/errors.ts";
import { compressionOf, hashed, inflate } from "../src/layers/inflate.ts";
import { release } from "../src/layers/relief.ts";

async function* pieces(bytes: Uint8Array, size: number): AsyncGenerator<Uint8Array, void, undefined> {
  for (let at = 0; at < bytes.length; at += size) yield bytes.subarray(at, at + size);
}

async function inflated(source: AsyncIterable<Uint8Array>): Promise<Buffer> {
  const parts: Uint8Array[] = [];
  for await (const part of inflate(source)) parts.push(part);
  return Buffer.concat(parts);
}

const content = Buffer.concat([randomBytes(300_000), Buffer.alloc(700_000, "berth ")]);
/** A frame that decoders pass over, as zstd:chunked layers begin or end with. */
const skippable = Buffer.from([0x50, 0x2a, 0x4d, 0x18, 4, 0, 0, 0, 1, 2, 3, 4]);
const half = content.length / 2;

const FORMS: readonly (readonly [name: string, bytes: Buffer])[] = [
  ["plain", content],
  ["gzip", gzipSync(content)],
  ["gzip of two members", Buffer.concat([gzipSync(content.subarray(0, half)), gzipSync(content.subarray(half))])],
  ["gzip with zeros behind it", Buffer.concat([gzipSync(content), Buffer.alloc(10_000)])],
  ["zstd", zstdCompressSync(content)],
  [
    "zstd of two frames",
    Buffer.concat([zstdCompressSync(content.subarray(0, half)), zstdCompressSync(content.subarray(half))]),
  ],
  ["zstd with skippable frames", Buffer.concat([skippable, zstdCompressSync(content), skippable])],
];

for (const [name, bytes] of FORMS) {
  for (const size of [bytes.length, 65_536, 1_000]) {
    test(`${name}, in pieces of ${size}`, async () => {
      let taken = 0;
      async function* counted(): AsyncGenerator<Uint8Array, void, undefined> {
        for await (const piece of pieces(bytes, size)) {
          taken += piece.length;
          yield piece;
        }
      }
      const out = await inflated(counted());
      assert.ok(out.equals(content));
      assert.equal(taken, bytes.length, "all of the source is read, for its digest");
    });
  }
}

test("a stream shorter than a magic number is plain", async () => {
  assert.deepEqual(await inflated(pieces(Buffer.from([0x1f]), 1)), Buffer.from([0x1f]));
  assert.equal((await inflated(pieces(Buffer.alloc(0), 1))).length, 0);
  assert.equal(compressionOf(new Uint8Array(0)), "none");
});

test("corrupt and cut data are refused", async () => {
  const gzip = gzipSync(content);
  const broken = Buffer.from(gzip);
  broken.fill(0xee, 1000, 1100);
  for (const bytes of [
    broken,
    gzip.subarray(0, gzip.length - 20),
    zstdCompressSync(content).subarray(0, 1000),
    Buffer.concat([gzip, Buffer.from("trailing garbage")]),
  ]) {
    await assert.rejects(
      inflated(pieces(bytes, 5000)),
      (error) => error instanceof ImageError && error.code === "InvalidImage",
    );
  }
});

test("the source's own error comes through", async () => {
  async function* failing(): AsyncGenerator<Uint8Array, void, undefined> {
    yield gzipSync(content).subarray(0, 50_000);
    throw new ImageError("Unavailable", "the line broke");
  }
  await assert.rejects(inflated(failing()), (error) => error instanceof ImageError && error.code === "Unavailable");
});

test("whoever stops reading early ends the source", async () => {
  const ended = Promise.withResolvers<void>();
  async function* endless(): AsyncGenerator<Uint8Array, void, undefined> {
    try {
      for (const piece = gzipSync(randomBytes(100_000)); ;) yield piece;
    } finally {
      ended.resolve();
    }
  }
  for await (const _ of inflate(endless())) break;
  // The feeding of the engine ends in a turn of its own of the loop.
  await ended.promise;
});

test("chunks that are used up are given back at once, and those passed on are not", async () => {
  const bytes = gzipSync(randomBytes(2_000_000));
  const given: Uint8Array[] = [];
  async function* own(): AsyncGenerator<Uint8Array, void, undefined> {
    for await (const piece of pieces(bytes, 65_536)) {
      const chunk = new Uint8Array(piece);
      given.push(chunk);
      yield chunk;
    }
  }
  const hash = createHash("sha256");
  let [size, held] = [0, 0];
  for await (const chunk of hashed(inflate(own(), release), hash, release)) {
    size += chunk.length;
    held = Math.max(
      held,
      given.reduce((sum, { length }) => sum + length, 0),
    );
  }
  assert.equal(size, 2_000_000);
  assert.equal(hash.digest("hex"), createHash("sha256").update(gunzipSync(bytes)).digest("hex"));
  assert.deepEqual(new Set(given.map(({ length }) => length)), new Set([0]));
  assert.ok(held < bytes.length / 2, `${held} bytes held at once`);
});

test("a window on a buffer is given back with the buffer's last bytes only, and Node's pool never", () => {
  const buffer = new Uint8Array(10_000);
  release(buffer.subarray(0, 5_000));
  assert.equal(buffer.length, 10_000);
  release(buffer.subarray(5_000));
  assert.equal(buffer.length, 0);
  const pooled = Buffer.from("pooled");
  release(pooled);
  assert.equal(pooled.toString(), "pooled");
});
