/** A short run of the decoders' fuzzer, from seeds that use every order, message, tree entry and frame of the channel, and an answer by ttRPC. BERTH_FUZZ_SECONDS for a longer one. */
import assert from "node:assert/strict";
import { execFile, execFileSync, spawnSync } from "node:child_process";
import { mkdirSync, readdirSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { test } from "node:test";
import { promisify } from "node:util";
import { MESSAGES, ORDERS, PLAN_VERSION, TREE } from "@berth/kernel";
import { build, built, scratch } from "./bosun.ts";
import { FRAME, frame, nonce, u32 } from "./channel.ts";
import { encodeFields, type Value, type Values } from "./client.ts";

const SAMPLE: Readonly<Record<string, Value>> = {
  u32: 7,
  u64: 1n << 40n,
  i64: -1n,
  str: "/some/path",
  bytes: Buffer.from("data\0more"),
  strs: ["a=b", "", "c"],
  blobs: [Buffer.alloc(0), Buffer.from([0, 1])],
  u32s: [1, 2, 70000],
};
type Specs = Readonly<
  Record<
    string,
    { readonly type?: number; readonly code?: number; readonly fields: Parameters<typeof encodeFields>[0] }
  >
>;

/** Every entry of a table, with something in every field. */
function encoded(specs: Specs): { name: string; number: number; body: Buffer }[] {
  return Object.entries(specs).map(([name, spec]) => {
    const values: Values = Object.fromEntries(
      Object.entries(spec.fields).map(([field, type]) => [field, SAMPLE[type] ?? 0]),
    );
    return { name, number: spec.code ?? spec.type ?? 0, body: encodeFields(spec.fields, values) };
  });
}

function plan(orders: readonly { number: number; body: Buffer }[]): Buffer {
  const head = (...words: number[]) => Buffer.from(Uint32Array.from(words).buffer);
  return Buffer.concat([
    head(PLAN_VERSION, orders.length),
    ...orders.flatMap(({ number, body }) => [head(number, body.length), body]),
  ]);
}

/** The first byte of an input says what it is, the second which message or tree entry. */
function seeds(dir: string): void {
  const write = (name: string, kind: number, type: number, body: Uint8Array) =>
    writeFileSync(join(dir, name), Buffer.concat([Buffer.from([kind, type]), body]));
  const orders = encoded(ORDERS);
  write("plan", 0, 0, plan(orders));
  for (const one of orders) write(`order-${one.name}`, 0, 0, plan([one]));
  for (const { name, number, body } of encoded(MESSAGES)) write(`message-${name}`, 1, number, body);
  for (const { name, number, body } of encoded(TREE)) write(`tree-${name}`, 2, number, body);
  const streams = [1, 2, 3].flatMap((stream) => [
    frame(FRAME.opened, stream, u32(stream === 3 ? 2 : 0)),
    frame(FRAME.data, stream, "some data"),
    frame(FRAME.give, stream, u32(5)),
    frame(stream === 1 ? FRAME.shut : FRAME.close, stream, stream === 1 ? "" : u32(0)),
  ]);
  write("guest-says", 3, 0xff, Buffer.concat(streams));
  write(
    "guest-answers",
    3,
    0xfe,
    Buffer.concat([Buffer.from("stale"), frame(FRAME.resetAck, 0, nonce(7)), ...streams]),
  );
  const host = ["/a", "connects", "error"].flatMap((path, index) => [
    frame(FRAME.open, index + 1, path),
    frame(FRAME.data, index + 1, "more"),
    frame(FRAME.give, index + 1, u32(1)),
    frame(FRAME.shut, index + 1),
    frame(FRAME.close, index + 1, u32(0)),
  ]);
  // Response{status: {code: 5, message: "gone"}, payload: {data: "output"}}, on stream 1, and half of another.
  const answer = Buffer.from("0a0808051204676f6e6512080a066f7574707574", "hex");
  const whole = Buffer.concat([Buffer.from([0, 0, 0, answer.length, 0, 0, 0, 1, 2, 0]), answer]);
  write("answers", 5, 0xff, Buffer.concat([whole, whole.subarray(0, 15)]));
  write("host-says", 4, 0x07, Buffer.concat([Buffer.alloc(99), frame(FRAME.reset, 0, nonce(1)), ...host]));
}

test("the decoders stand whatever bytes they are given", { timeout: 3_600_000 }, async (t) => {
  if (spawnSync("clang", ["--version"]).error !== undefined) return t.skip("clang is not installed");
  execFileSync(build, ["--fuzz"]);
  const corpus = scratch(t);
  const crashes = join(scratch(t), "crashes/");
  mkdirSync(crashes);
  seeds(corpus);
  const before = readdirSync(corpus).length;
  const seconds = process.env["BERTH_FUZZ_SECONDS"] ?? "3";
  const result = await promisify(execFile)(
    join(built, "fuzz_decode"),
    [`-max_total_time=${seconds}`, "-max_len=4096", `-artifact_prefix=${crashes}`, "-print_final_stats=1", corpus],
    { maxBuffer: 1 << 26 },
  );
  assert.deepEqual(readdirSync(crashes), []);
  const executed = Number(/stat::number_of_executed_units:\s*(\d+)/.exec(result.stderr)?.[1] ?? 0);
  t.diagnostic(`${executed} inputs, ${readdirSync(corpus).length - before} of them new in what they reach`);
  assert.ok(executed > before, result.stderr);
});
