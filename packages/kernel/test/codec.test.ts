import assert from "node:assert/strict";
import { test } from "node:test";
import fc from "fast-check";
import { Decoder, DecodeError, EncodeError } from "../src/orders/codec.ts";
import {
  decodeHeader,
  decodeMessage,
  decodeOutputs,
  decodePlan,
  encodeMessage,
  encodePlan,
  encodeTreeEntry,
  HEADER_SIZE,
} from "../src/orders/encode.ts";
import { MESSAGES, TREE } from "../src/orders/messages.ts";
import type { Order } from "../src/orders/plan.ts";
import { ORDERS, PLAN_VERSION, type Fields, type FieldType } from "../src/orders/table.ts";

const noNul = fc.string({ unit: "grapheme", maxLength: 40 }).map((text) => text.replaceAll("\0", ""));
const bytes = fc.uint8Array({ maxLength: 64 });
const VALUES: Readonly<Record<FieldType, fc.Arbitrary<unknown>>> = {
  u32: fc.integer({ min: 0, max: 0xffff_ffff }),
  u64: fc.bigInt({ min: 0n, max: 0xffff_ffff_ffff_ffffn }),
  i64: fc.bigInt({ min: -(1n << 63n), max: (1n << 63n) - 1n }),
  str: noNul,
  bytes,
  strs: fc.array(noNul, { maxLength: 5 }),
  blobs: fc.array(bytes, { maxLength: 5 }),
  u32s: fc.array(fc.integer({ min: 0, max: 0xffff_ffff }), { maxLength: 5 }),
};

function fieldsOf(fields: Fields): fc.Arbitrary<Record<string, unknown>> {
  return fc.record(Object.fromEntries(Object.entries(fields).map(([name, type]) => [name, VALUES[type]])));
}

const anyOrder = fc.oneof(
  ...Object.entries(ORDERS).map(([order, spec]) =>
    fieldsOf(spec.fields).map((args) => ({ order, args }) as unknown as Order),
  ),
);
/** Buffers and Uint8Arrays of the same bytes are the same here. */
const comparable = (value: unknown): unknown => {
  if (value instanceof Uint8Array) return { bytes: [...value] };
  if (Array.isArray(value)) return value.map(comparable);
  if (typeof value === "bigint") return `${value}n`;
  if (typeof value === "object" && value !== null)
    return Object.fromEntries(Object.entries(value).map(([key, one]) => [key, comparable(one)]));
  return value;
};

test("every plan decodes to what was encoded", () => {
  fc.assert(
    fc.property(fc.array(anyOrder, { maxLength: 8 }), (orders) => {
      assert.deepEqual(comparable(decodePlan(encodePlan({ orders }))), comparable({ orders }));
    }),
    { numRuns: 300 },
  );
});

test("every message decodes to what was encoded", () => {
  for (const [name, spec] of Object.entries(MESSAGES)) {
    fc.assert(
      fc.property(fieldsOf(spec.fields), fc.integer({ min: 0, max: 0xffff_ffff }), (fields, id) => {
        const frame = encodeMessage(name as keyof typeof MESSAGES, id, 7, fields as never);
        const header = decodeHeader(frame);
        assert.deepEqual(header, { size: frame.length - HEADER_SIZE, id, type: spec.type });
        const message = decodeMessage(header.type, frame.subarray(HEADER_SIZE));
        assert.equal(message.name, name);
        assert.deepEqual(comparable(message.fields), comparable(fields));
      }),
      { numRuns: 30 },
    );
  }
});

test("tree entries carry their size and type", () => {
  for (const [name, spec] of Object.entries(TREE)) {
    fc.assert(
      fc.property(fieldsOf(spec.fields), (fields) => {
        const entry = encodeTreeEntry(name as keyof typeof TREE, fields as never);
        assert.equal(entry.readUInt32LE(0), entry.length - 8);
        assert.equal(entry.readUInt16LE(4), spec.type);
        const decoder = new Decoder(entry.subarray(8));
        assert.deepEqual(comparable(decoder.fields(spec.fields)), comparable(fields));
        assert.ok(decoder.atEnd);
      }),
      { numRuns: 30 },
    );
  }
});

test("the wire is as messages.ts says, byte by byte", () => {
  const plan = encodePlan({ orders: [{ order: "symlink", args: { root: 3, path: "/a", target: "b" } }] });
  const expected = Buffer.concat([
    u32(PLAN_VERSION),
    u32(1),
    Buffer.from([31, 0, 0, 0]),
    u32(4 + 7 + 6),
    u32(3),
    u32(2),
    Buffer.from("/a\0"),
    u32(1),
    Buffer.from("b\0"),
  ]);
  assert.deepEqual([...plan], [...expected]);
  assert.deepEqual(
    [...encodeMessage("cancel", 9, 250, { id: 5 })],
    Array.from(Buffer.concat([u32(4), u32(9), Buffer.from([17, 0, 0, 0]), u32(250), u32(5)])),
  );
});

function u32(value: number): Buffer {
  const buffer = Buffer.alloc(4);
  buffer.writeUInt32LE(value);
  return buffer;
}

test("what does not fit is refused, naming order and field", () => {
  assert.throws(
    () => encodePlan({ orders: [{ order: "unlink", args: { path: "/a\0b" } }] }),
    (error: Error) => error instanceof EncodeError && /^unlink\.path: .*NUL/.test(error.message),
  );
  assert.throws(() => encodePlan({ orders: [{ order: "umask", args: { mask: -1 } }] }), /umask\.mask/);
  assert.throws(() => encodePlan({ orders: [{ order: "bounding", args: { mask: 1n << 64n } }] }), /bounding\.mask/);
  assert.throws(
    () => encodePlan({ orders: [{ order: "umask", args: {} as { mask: number } }] }),
    /umask: field mask is missing/,
  );
});

test("no bytes make the decoder do anything but answer or throw its errors", () => {
  fc.assert(
    fc.property(
      fc.uint8Array({ maxLength: 200 }),
      fc.constantFrom(...Object.values(MESSAGES).map(({ type }) => type)),
      (junk, type) => {
        try {
          decodeMessage(type, junk);
        } catch (error) {
          assert.ok(error instanceof DecodeError, String(error));
        }
      },
    ),
    { numRuns: 1000 },
  );
  assert.throws(() => decodeMessage(999, new Uint8Array()), DecodeError);
  // A list that claims four billion items must not be believed.
  assert.throws(
    () => decodePlan(Buffer.concat([u32(PLAN_VERSION), u32(1), Buffer.from([92, 0, 0, 0]), u32(4), u32(0xffff_ffff)])),
    DecodeError,
  );
});

test("outputs are by order, and tell missing from empty", () => {
  const outputs = decodeOutputs(
    Buffer.concat([u32(4), u32(0), u32(2), Buffer.from("hi"), u32(6), u32(1), u32(0), u32(7), u32(0), u32(0)]),
  );
  assert.deepEqual([...outputs.keys()], [4, 6, 7]);
  assert.equal(Buffer.from(outputs.get(4) ?? []).toString(), "hi");
  assert.equal(outputs.get(6), undefined);
  assert.equal(outputs.get(7)?.length, 0);
});
