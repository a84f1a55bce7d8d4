/** Which images go when their file system fills up: by the kubelet's rules, and never one that is used or pinned. */
import assert from "node:assert/strict";
import test from "node:test";
import { type CollectorContext, type CollectorPolicy, ImageCollector, imagesInUse } from "../src/image/collector.ts";
import { silent } from "../src/log.ts";

const POLICY: CollectorPolicy = { highPercent: 85, lowPercent: 70, minimumAgeMs: 1000, periodMs: 60_000 };

interface Fake {
  readonly id: string;
  readonly pinned?: boolean;
  readonly size: number;
}

/** A file system of 100 bytes, with images in it. */
function setUp(images: readonly Fake[], used: Record<string, string[]> = {}, policy = POLICY) {
  const here = new Map(images.map((image) => [image.id, image]));
  const containers = new Map(
    Object.entries(used).map(([id, [imageId, ...volumes]]) => [
      id,
      { record: { imageId, config: { mounts: volumes.map((image) => ({ image: { image } })) } } },
    ]),
  );
  const warnings: object[] = [];
  const context = {
    containers,
    images: {
      list: () => [...here.values()],
      find: (id: string) => here.get(id),
      remove: (id: string) => Promise.resolve(void here.delete(id)),
      usage: () => Promise.reject(new Error("not asked")),
    },
    log: { ...silent, warn: (fields: object) => warnings.push(fields) },
  } as unknown as CollectorContext;
  const clock = { now: 1_000_000 };
  const room = () => {
    const taken = [...here.values()].reduce((sum, { size }) => sum + size, 0);
    return Promise.resolve({ size: 100, available: 100 - taken });
  };
  const collector = new ImageCollector(context, policy, room, () => clock.now);
  return { collector, clock, containers, context, warnings, left: () => [...here.keys()] };
}

test("nothing goes below the high threshold, and no more than brings it to the low one above it", async () => {
  const images = ["a", "b", "c", "d"].map((id) => ({ id, size: 21 }));
  const { collector, clock } = setUp(images);
  await collector.collect();
  clock.now += 5000;
  assert.deepEqual(await collector.collect(), [], "84 of 100");
  const full = setUp([...images, { id: "e", size: 5 }]);
  assert.deepEqual(await full.collector.collect(), [], "all of them are new");
  full.clock.now += 1000;
  assert.deepEqual(await full.collector.collect(), ["a"], "89, then 68");
  assert.deepEqual(full.left(), ["b", "c", "d", "e"]);
});

test("what was used longest ago goes first; used, pinned and young ones stay, and that is told", async () => {
  const images = [
    { id: "pinned", size: 20, pinned: true },
    { id: "used", size: 20 },
    { id: "volume", size: 20 },
    { id: "recent", size: 10 },
    { id: "old", size: 20 },
  ];
  const { collector, clock, containers, context, warnings, left } = setUp(images, {
    one: ["used", "volume"],
    two: ["recent"],
    three: ["old"],
  });
  assert.deepEqual(imagesInUse(context), new Set(["used", "volume", "recent", "old"]));
  await collector.collect();
  containers.delete("three");
  clock.now += 100;
  await collector.collect();
  containers.delete("two");
  clock.now += 950;
  assert.deepEqual(await collector.collect(), ["old"], "recent was used within the minimum age");
  assert.deepEqual(left(), ["pinned", "used", "volume", "recent"]);
  clock.now += 5000;
  warnings.length = 0;
  assert.deepEqual(await collector.collect(), [], "70 of 100");
  assert.deepEqual(warnings, []);
});

test("a full file system without a removable image is told of", async () => {
  const { collector, clock, warnings } = setUp([{ id: "used", size: 99 }], { one: ["used"] });
  clock.now += 5000;
  assert.deepEqual(await collector.collect(), []);
  assert.deepEqual(warnings, [{ percent: 99, lowPercent: 70 }]);
});

test("a container that is made while images go keeps its own", async () => {
  const images = ["a", "b", "c"].map((id) => ({ id, size: 33 }));
  const setup = setUp(images, {}, { ...POLICY, lowPercent: 1 });
  await setup.collector.collect();
  setup.clock.now += 1000;
  const { remove } = setup.context.images;
  Object.assign(setup.context.images, {
    remove: async (id: string) => {
      await remove(id);
      setup.containers.set("late", { record: { imageId: "b", config: { mounts: [] } } });
    },
  });
  assert.deepEqual(await setup.collector.collect(), ["a", "c"]);
  assert.deepEqual(setup.left(), ["b"]);
});

test("it looks at its start and in every period, and its end waits for a round", async (t) => {
  t.mock.timers.enable({ apis: ["setInterval"] });
  const { collector, clock, left } = setUp([{ id: "a", size: 99 }]);
  collector.start();
  await new Promise((resolve) => setImmediate(resolve));
  clock.now += 1000;
  t.mock.timers.tick(POLICY.periodMs);
  await collector[Symbol.asyncDispose]();
  assert.deepEqual(left(), []);
});
