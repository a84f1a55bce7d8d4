/** Which machines wait for pods, and how many; machines themselves are in tests/vm-cache.test.ts. */
import assert from "node:assert/strict";
import { afterEach, beforeEach, test } from "node:test";
import { settingsOf } from "../src/configuration/settings.ts";
import { Cache, type Kept, type Stock } from "../src/factory/cache.ts";
import { cacheSize } from "../src/factory/key.ts";
import { isAbandoned, makerOf, newName } from "../src/factory/names.ts";

interface Double extends Kept {
  readonly name: string;
  readonly end: (reason: string) => void;
}

let cache: Cache<Double>;
let warnings: string[];
let made: string[];
let removed: string[];
beforeEach(() => {
  warnings = [];
  made = [];
  removed = [];
  cache = new Cache((message) => void warnings.push(message));
});
afterEach(() => cache.close());

function double(digest: string): Double {
  const name = `${digest}${made.filter((one) => one.startsWith(digest)).length}`;
  const { promise: ended, resolve: end } = Promise.withResolvers<string>();
  made.push(name);
  return {
    name,
    ended,
    end,
    remove: async () => {
      await Promise.resolve();
      removed.push(name);
      // As a hypervisor's connection does.
      end("removed");
    },
  };
}

const stock = (digest: string, count: number, make?: Stock<Double>["make"]): Stock<Double> => ({
  digest,
  count,
  make: make ?? (() => Promise.resolve(double(digest))),
});

test("as many wait as are asked for, and another is made behind one that is taken", async () => {
  assert.equal(cache.take("a"), undefined);
  cache.keep(stock("a", 2));
  assert.equal(cache.take("a"), undefined);
  await cache.settled();
  assert.deepEqual(made, ["a0", "a1"]);

  assert.equal(cache.take("b"), undefined);
  assert.equal(cache.take("a")?.name, "a0");
  cache.keep(stock("a", 2));
  await cache.settled();
  assert.deepEqual(made, ["a0", "a1", "a2"]);
  assert.equal(cache.take("a")?.name, "a1");

  cache.keep(stock("a", 0));
  await cache.settled();
  assert.deepEqual(removed, ["a2"]);
  assert.deepEqual(warnings, []);
});

test("one that ends by itself is never taken, and replaced", async () => {
  let first: Double | undefined;
  cache.keep(stock("a", 1, () => Promise.resolve((first = double("a")))));
  await cache.settled();
  first?.end("killed");
  await new Promise(setImmediate);
  await cache.settled();
  assert.deepEqual(removed, ["a0"]);
  assert.deepEqual(warnings, ["virtual machines that wait for a pod: one ended before a pod had it: killed"]);
  assert.equal(cache.take("a")?.name, "a1");
  assert.deepEqual(removed, ["a0"]);
});

test("a kind that fails again and again is given up; one success between counts", async () => {
  let calls = 0;
  const broken = stock("a", 1, () => Promise.reject(new Error(`no guest ${++calls}`)));
  cache.keep(broken);
  await cache.settled();
  cache.keep(broken);
  await cache.settled();
  assert.equal(calls, 2);
  assert.deepEqual(warnings, [
    "virtual machines that wait for a pod: none could be started: no guest 1",
    "virtual machines that wait for a pod: none could be started: no guest 2; none of this configuration is kept ready from now on",
  ]);

  warnings = [];
  for (let round = 0; round < 5; round++) {
    cache.fail("b", "it did not answer");
    cache.succeed("b");
  }
  cache.keep(stock("b", 1));
  await cache.settled();
  assert.equal(cache.take("b")?.name, "b0");
  assert.ok(warnings.every((message) => !message.includes("from now on")));
});

test("where there is nothing to make one of, it is tried when it is asked for again", async () => {
  let isThere = false;
  const later = stock("a", 1, () => Promise.resolve(isThere ? double("a") : undefined));
  cache.keep(later);
  await cache.settled();
  assert.equal(cache.take("a"), undefined);
  isThere = true;
  cache.keep(later);
  await cache.settled();
  assert.equal(cache.take("a")?.name, "a0");
  assert.deepEqual(warnings, []);
});

test("of more kinds than can be kept those asked for longest ago go", async () => {
  for (const digest of ["a", "b", "c", "d"]) {
    cache.keep(stock(digest, 1));
    await cache.settled();
  }
  cache.keep(stock("a", 1));
  cache.keep(stock("e", 1));
  await cache.settled();
  assert.deepEqual(removed, ["b0"]);
  assert.deepEqual(
    ["a", "b", "c", "d", "e"].map((digest) => cache.take(digest)?.name),
    ["a0", undefined, "c0", "d0", "e0"],
  );
});

test("at its end nothing is left: neither what waits nor what is being made", async () => {
  cache.keep(stock("a", 1));
  await cache.settled();
  const { promise: begun, resolve: begin } = Promise.withResolvers<void>();
  const half = async (signal: AbortSignal): Promise<Double> => {
    begin();
    await new Promise((resolve) => signal.addEventListener("abort", resolve, { once: true }));
    return double("b");
  };
  cache.keep(stock("b", 1, half));
  await begun;
  await cache.close();
  assert.deepEqual(removed.sort(), ["a0", "b0"]);
  cache.keep(stock("a", 1));
  await cache.settled();
  assert.deepEqual(made, ["a0", "b0"]);
  assert.deepEqual(warnings, []);
});

test("one machine waits where nobody says how many, and it is a template's copy; and none where it cannot be", () => {
  const size = (own: Record<string, unknown>, factory: Record<string, unknown> = {}, name = "qemu"): number =>
    cacheSize(settingsOf({ hypervisor: { [name]: own }, factory }));
  assert.equal(size({}), 1);
  assert.equal(size({}, { vm_cache_number: 0 }), 0);
  assert.equal(size({}, { vm_cache_number: 3 }), 3);
  assert.equal(size({}, { enable_template: false }), 0);
  assert.equal(size({}, { enable_template: false, vm_cache_number: 2 }), 2);
  assert.equal(size({ enable_hugepages: true }), 0);
  for (const own of [{ machine_type: "microvm" }, { rootless: true }, { shared_fs: "virtio-9p" }]) {
    assert.equal(size(own), 0);
    assert.throws(() => size(own, { vm_cache_number: 1 }), /\[factory\] vm_cache_number: 1, but /);
  }
  assert.equal(size({}, {}, "clh"), 0);
  assert.throws(() => size({}, { vm_cache_number: 1 }, "clh"), /vm_cache_number: 1, but hypervisor clh /);
});

test("a machine whose maker is gone is nobody's, also where its number is another's now", () => {
  const name = newName("vmc");
  assert.deepEqual(makerOf(name), { purpose: "vmc", pid: process.pid });
  assert.equal(isAbandoned(name), false);
  const other = name.replace(/....$/, (end) => (end === "0000" ? "0001" : "0000"));
  assert.equal(isAbandoned(other), true);
  assert.equal(isAbandoned(`tpl-${2 ** 22 + 1}-0000`), true);
  assert.equal(isAbandoned(`tpl-${process.ppid}-0000`), false);
  for (const pod of ["0123456789abcdef0123", "vmc", "vmc-1"]) assert.equal(makerOf(pod), undefined);
});
