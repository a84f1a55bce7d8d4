/** ttRPC's frames: whatever way the bytes are cut, the same frames come out; nothing that a peer sends breaks the decoder. */
import assert from "node:assert/strict";
import { test } from "node:test";
import fc from "fast-check";
import { encodeFrame, type Frame, FrameDecoder, HEADER_BYTES, MAX_DATA_BYTES } from "../src/frame.ts";

const frames = fc.array(
  fc.record({
    stream: fc.integer({ min: 0, max: 0xffff_ffff }),
    type: fc.integer({ min: 0, max: 255 }),
    flags: fc.integer({ min: 0, max: 255 }),
    data: fc.uint8Array({ maxLength: 300 }),
  }),
  { maxLength: 8 },
);

function cut(bytes: Buffer, sizes: readonly number[]): Buffer[] {
  const parts: Buffer[] = [];
  let at = 0;
  for (let i = 0; at < bytes.length; i++) {
    const size = sizes.length === 0 ? bytes.length : Math.max(1, sizes[i % sizes.length] ?? 1);
    parts.push(bytes.subarray(at, at + size));
    at += size;
  }
  return parts;
}

const plain = ({ stream, type, flags, data }: Frame) => ({ stream, type, flags, data: Buffer.from(data) });

test("frames survive any cutting of the bytes", () => {
  fc.assert(
    fc.property(frames, fc.array(fc.integer({ min: 1, max: 40 }), { maxLength: 20 }), (sent, sizes) => {
      const decoder = new FrameDecoder();
      const got = cut(Buffer.concat(sent.map(encodeFrame)), sizes).flatMap((part) => [...decoder.push(part)]);
      assert.deepEqual(got.map(plain), sent.map(plain));
      assert.equal(decoder.pending, 0);
    }),
  );
});

test("a frame that is too long is skipped, and what follows it is understood", () => {
  const header = Buffer.alloc(HEADER_BYTES);
  header.writeUInt32BE(MAX_DATA_BYTES + 3, 0);
  header.writeUInt32BE(7, 4);
  const after = encodeFrame({ stream: 9, type: 1, flags: 0, data: Buffer.from("after") });
  const decoder = new FrameDecoder();
  const got = [...decoder.push(header)];
  assert.equal(got[0]?.tooLong, MAX_DATA_BYTES + 3);
  assert.equal(got[0]?.stream, 7);
  for (const part of cut(Buffer.alloc(MAX_DATA_BYTES + 3, 1), [1 << 20])) {
    assert.deepEqual([...decoder.push(part)], []);
    assert.equal(decoder.pending, 0, "nothing of it is kept");
  }
  assert.deepEqual([...decoder.push(after)].map(plain), [{ stream: 9, type: 1, flags: 0, data: Buffer.from("after") }]);
});

test("any bytes are frames, or wait for more", () => {
  fc.assert(
    fc.property(fc.array(fc.uint8Array({ maxLength: 64 })), (parts) => {
      const decoder = new FrameDecoder();
      for (const part of parts) for (const frame of decoder.push(Buffer.from(part))) assert.ok(frame.stream >= 0);
    }),
  );
});

test("a frame holds 4 MiB and no more", () => {
  const full = encodeFrame({ stream: 1, type: 2, flags: 0, data: Buffer.alloc(MAX_DATA_BYTES) });
  const [frame] = [...new FrameDecoder().push(full)];
  assert.equal(frame?.data.length, MAX_DATA_BYTES);
  assert.throws(
    () => encodeFrame({ stream: 1, type: 2, flags: 0, data: Buffer.alloc(MAX_DATA_BYTES + 1) }),
    RangeError,
  );
});
