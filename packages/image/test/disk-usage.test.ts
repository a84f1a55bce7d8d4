import assert from "node:assert/strict";
import test from "node:test";
import type { Hand, Plan } from "@berth/kernel";
import { DiskUsage } from "../src/snapshots/disk-usage.ts";

/** A hand that counts plans; every directory has as many inodes as it was measured times. */
function counting(): { hand: Hand; plans: Plan[]; fail: (error: Error | undefined) => void } {
  const plans: Plan[] = [];
  let failure: Error | undefined;
  const no = (): never => {
    throw new Error("not asked for here");
  };
  const hand: Hand = {
    run: async (plan) => {
      await Promise.resolve();
      plans.push(plan);
      if (failure) throw failure;
      const output = (): Uint8Array => new Uint8Array(new BigUint64Array([4096n, BigInt(plans.length)]).buffer);
      return new Map(plan.orders.map((_, index) => [index, output()]));
    },
    tree: no,
    spawn: no,
    dial: no,
    monitor: no,
    close: async () => await Promise.resolve(),
  };
  return { hand, plans, fail: (error) => (failure = error) };
}

test("what is asked for together is measured by one plan, and each directory once", async () => {
  const { hand, plans } = counting();
  const usage = new DiskUsage(hand);
  const all = await Promise.all(["/a", "/b", "/a"].map((directory) => usage.of(directory)));
  assert.deepEqual(
    all,
    Array.from({ length: 3 }, () => ({ bytes: 4096, inodes: 1 })),
  );
  assert.deepEqual(
    plans.map(({ orders }) => orders.map(({ args }) => args)),
    [[{ path: "/a" }, { path: "/b" }]],
  );
  assert.deepEqual(await usage.of("/b"), { bytes: 4096, inodes: 1 }, "fresh");
  assert.equal(plans.length, 1);
});

test("an old figure is answered at once and renewed meanwhile; a failure keeps it", async () => {
  const { hand, plans, fail } = counting();
  const usage = new DiskUsage(hand, 0);
  assert.equal((await usage.of("/a")).inodes, 1);
  assert.equal((await usage.of("/a")).inodes, 1);
  await new Promise(setImmediate);
  await new Promise(setImmediate);
  assert.equal(usage.last("/a")?.inodes, 2);
  fail(Object.assign(new Error("no"), { code: "EIO" }));
  assert.equal((await usage.of("/a")).inodes, 2);
  await new Promise(setImmediate);
  await new Promise(setImmediate);
  assert.equal(plans.length, 3);
  assert.equal(usage.last("/a")?.inodes, 2);
  await assert.rejects(usage.of("/b"), /measure writable layers: no/);
  usage.forget("/a");
  assert.equal(usage.last("/a"), undefined);
});
