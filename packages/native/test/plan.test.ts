/** The wire, and what a report says of a plan that does not decode or does not succeed. */
import assert from "node:assert/strict";
import { execFileSync, spawnSync } from "node:child_process";
import { writeFileSync } from "node:fs";
import { join } from "node:path";
import { test } from "node:test";
import { encodePlan, SLOTS } from "@berth/kernel";
import { bosun, carryOut, order, root, scratch, shell, startEncoded, succeed } from "./bosun.ts";

function u32(value: number): Buffer {
  const bytes = Buffer.alloc(4);
  bytes.writeUInt32LE(value);
  return bytes;
}
function encodedOrder(code: number, body: Buffer, size = body.length): Buffer {
  const head = Buffer.alloc(8);
  head.writeUInt16LE(code, 0);
  head.writeUInt32LE(size, 4);
  return Buffer.concat([head, body]);
}
const plan = (version: number, count: number, ...orders: Buffer[]) =>
  Buffer.concat([u32(version), u32(count), ...orders]);
const str = (text: string, tail = "\0") => Buffer.concat([u32(text.length), Buffer.from(text + tail)]);

test("an empty plan succeeds", async () => {
  const outcome = await succeed([]);
  assert.equal(outcome.order, undefined);
  assert.equal(outcome.status, 0);
});

test("--version and usage", () => {
  assert.match(execFileSync(bosun, ["--version"]).toString(), /^bosun \d+\.\d+\.\d+ \(plan version 1\)\n$/);
  for (const wrong of [[], ["serve"], ["run", "x"], ["no-such"]]) {
    const result = spawnSync(bosun, wrong);
    assert.equal(result.status, 2);
    assert.match(result.stderr.toString(), /^usage: bosun/);
  }
});

const malformed: readonly [name: string, bytes: Buffer, code: string, index: number | undefined, detail: RegExp][] = [
  ["nothing", Buffer.alloc(0), "EINVAL", undefined, /0 bytes is too short/],
  ["half a header", u32(1), "EINVAL", undefined, /too short/],
  ["another version", plan(2, 0), "EPROTO", undefined, /plan version 2, where 1 is spoken here/],
  ["an unknown code", plan(1, 1, encodedOrder(9999, Buffer.alloc(0))), "EINVAL", 0, /code 9999/],
  ["fewer orders than said", plan(1, 2, encodedOrder(57, Buffer.alloc(0))), "EINVAL", 1, /order 1 of 2 is cut short/],
  [
    "more bytes than orders",
    plan(1, 1, encodedOrder(57, Buffer.alloc(0)), Buffer.from("x")),
    "EINVAL",
    undefined,
    /1 bytes follow/,
  ],
  ["an order longer than the plan", plan(1, 1, encodedOrder(71, u32(0), 400)), "EINVAL", 0, /cut short/],
  [
    "an order with bytes left over",
    plan(1, 1, encodedOrder(71, Buffer.concat([u32(0), u32(0)]))),
    "EINVAL",
    0,
    /do not fit/,
  ],
  ["a str without its NUL", plan(1, 1, encodedOrder(44, str("/x", "y"))), "EINVAL", 0, /do not fit/],
  ["a str with a NUL inside", plan(1, 1, encodedOrder(44, str("/x\0y"))), "EINVAL", 0, /do not fit/],
  ["a str as long as 32 bits allow", plan(1, 1, encodedOrder(44, u32(0xffffffff))), "EINVAL", 0, /do not fit/],
  [
    "a list longer than the plan",
    plan(1, 1, encodedOrder(74, Buffer.concat([u32(0), u32(0), u32(0x40000000)]))),
    "EINVAL",
    0,
    /do not fit/,
  ],
];
for (const [name, bytes, code, index, detail] of malformed) {
  test(`malformed: ${name}`, async () => {
    const outcome = await startEncoded(bytes).outcome;
    assert.equal(outcome.code, code);
    assert.equal(outcome.order, index);
    assert.match(outcome.detail, detail);
    assert.equal(outcome.status, 1);
  });
}

test("a plan with a malformed end does not begin", async (t) => {
  const dir = scratch(t);
  const good = encodePlan({
    orders: [order("mkdir", { path: join(dir, "made"), mode: 0o755, existOk: 0, parents: 0 })],
  });
  good.writeUInt32LE(2, 4);
  const outcome = await startEncoded(Buffer.concat([good, encodedOrder(9999, Buffer.alloc(0))])).outcome;
  assert.equal(outcome.order, 1);
  assert.throws(() => execFileSync("/bin/ls", [join(dir, "made")], { stdio: "ignore" }));
});

test("a failure names its order, and what came before it stays done", async (t) => {
  const dir = scratch(t);
  const outcome = await carryOut([
    order("mkdir", { path: join(dir, "a"), mode: 0o755, existOk: 0, parents: 0 }),
    order("mkdir", { path: join(dir, "no/b"), mode: 0o755, existOk: 0, parents: 0 }),
    order("mkdir", { path: join(dir, "c"), mode: 0o755, existOk: 0, parents: 0 }),
  ]);
  assert.equal(outcome.code, "ENOENT");
  assert.equal(outcome.order, 1);
  assert.equal(outcome.stage, 0);
  assert.equal(outcome.detail, `mkdir ${join(dir, "no/b")}`);
  assert.deepEqual(execFileSync("/bin/ls", [dir]).toString(), "a\n");
});

test("outputs of several orders, and of one that misses its file", async (t) => {
  const dir = scratch(t);
  writeFileSync(join(dir, "one"), "first");
  writeFileSync(join(dir, "empty"), "");
  const outcome = await succeed([
    root(0, dir),
    order("read_in", { root: 0, path: "/one", max: 100 }),
    order("read_in", { root: 0, path: "/absent", max: 100 }),
    order("read_in", { root: 0, path: "/empty", max: 100 }),
    order("read_in", { root: 0, path: "/one", max: 3 }),
  ]);
  assert.deepEqual([...outcome.outputs.keys()], [1, 2, 3, 4]);
  assert.equal(Buffer.from(outcome.outputs.get(1) ?? []).toString(), "first");
  assert.equal(outcome.outputs.get(2), undefined);
  assert.equal(outcome.outputs.get(3)?.length, 0);
  assert.equal(Buffer.from(outcome.outputs.get(4) ?? []).toString(), "fir");
});

test("the details of a long path are cut, not lost", async () => {
  const outcome = await carryOut([order("unlink", { path: `/${"x".repeat(3000)}` })]);
  assert.equal(outcome.code, "ENAMETOOLONG");
  assert.match(outcome.detail, /^unlink \/x{400,}/);
});

test("slots: out of range, empty, closed, replaced", async (t) => {
  const dir = scratch(t);
  for (const slot of [SLOTS, 0xffffffff]) {
    const outcome = await carryOut([root(slot, dir)]);
    assert.deepEqual([outcome.code, outcome.detail], ["EBADF", `slot ${slot} is out of range`]);
  }
  const empty = await carryOut([order("close", { slot: 5 })]);
  assert.deepEqual([empty.code, empty.detail], ["EBADF", "slot 5 is empty"]);
  const closed = await carryOut([
    root(5, dir),
    order("close", { slot: 5 }),
    order("mkdir_in", { root: 5, path: "x", mode: 0o755, uid: 0, gid: 0 }),
  ]);
  assert.deepEqual([closed.code, closed.order, closed.detail], ["EBADF", 2, "slot 5 is empty"]);
  await succeed([
    root(5, "/"),
    root(5, dir),
    order("mkdir_in", { root: 5, path: "replaced", mode: 0o755, uid: 0, gid: 0 }),
  ]);
  assert.equal(execFileSync("/bin/ls", [dir]).toString(), "replaced\n");
});

test("bosun runs from a sealed copy of itself (CVE-2019-5736)", async () => {
  const outcome = await succeed([shell("readlink /proc/$PPID/exe >&2; echo overwritten > /proc/$PPID/exe")]);
  assert.match(
    outcome.said,
    /^\/memfd:bosun \(deleted\)\n.*(Text file busy|Operation not permitted|Permission denied)/s,
  );
});

test("exec, park, clone and reap need a monitor only where one is asked for", async () => {
  const outcome = await succeed([shell("echo hello >&2; exit 7")]);
  assert.equal(outcome.said, "hello\n");
  assert.equal(outcome.status, 7);
});
