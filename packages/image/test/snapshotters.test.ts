/** The contract on every snapshotter, with node:fs and, where it is built, with bosun. */
import assert from "node:assert/strict";
import { readdirSync, rmSync } from "node:fs";
import { join } from "node:path";
import test, { type TestContext } from "node:test";
import { WorkerPool } from "../src/layers/pool.ts";
import { openTarget } from "../src/layers/targets.ts";
import type { Choice } from "../src/snapshots/choose.ts";
import { chooseSnapshotter } from "../src/snapshots/choose.ts";
import { SnapshotStore } from "../src/snapshots/store.ts";
import { openDatabase } from "../src/store/database.ts";
import { IMAGE_SCHEMA } from "../src/store/schema.ts";
import { snapshotterContract, stack, type Subject } from "./snapshotter-contract.ts";
import { atEnd, bosunRig, plainRig, type Rig, whyNoBosun } from "./support/store.ts";

async function subject(t: TestContext, rig: Rig, choice: Choice): Promise<Subject> {
  const { root, hand } = rig;
  const tree = { module: rig.treeModule ?? "@berth/kernel", socket: rig.serveSocket };
  const database = await openDatabase(root);
  database.migrate("image", IMAGE_SCHEMA);
  const pool = new WorkerPool(1);
  atEnd(t, async () => {
    await pool.close();
    await database.close();
  });
  const open = async (): Promise<SnapshotStore> =>
    await SnapshotStore.open({ root, hand, database, pool, tree, choice });
  return {
    snapshotter: await open(),
    openTree: async (draft) => await openTarget(draft.target, tree),
    whole: rig.treeModule === undefined,
    restart: open,
    transaction: (work) => database.transaction(work),
  };
}

const needsRoot = process.getuid?.() === 0 ? undefined : "needs root: whiteouts are devices";
const noBosun = whyNoBosun();

snapshotterContract("overlayfs", async (t) => {
  if (needsRoot !== undefined) return t.skip(needsRoot) as undefined;
  return await subject(t, plainRig(t), { name: "overlayfs" });
});

snapshotterContract("overlayfs with bosun", async (t) => {
  if (noBosun !== undefined) return t.skip(noBosun) as undefined;
  return await subject(t, await bosunRig(t), { name: "overlayfs" });
});

snapshotterContract("native", async (t) => {
  if (needsRoot !== undefined) return t.skip(needsRoot) as undefined;
  return await subject(t, plainRig(t), { name: "native" });
});

snapshotterContract("native with bosun", async (t) => {
  if (noBosun !== undefined) return t.skip(noBosun) as undefined;
  return await subject(t, await bosunRig(t), { name: "native" });
});

const rootOnly = needsRoot === undefined ? {} : { skip: needsRoot };

test("a layer whose file is lost fails the settling that finds it, and no later one", rootOnly, async (t) => {
  const rig = plainRig(t);
  const own = await subject(t, rig, { name: "native" });
  const { snapshotter } = own;
  await stack(own, "lost", [{ name: "file", data: "1" }]);
  const [id = ""] = readdirSync(join(rig.root, "snapshots"));
  rmSync(join(rig.root, "snapshots", id, "layer.erofs"));
  await assert.rejects(snapshotter.settle(), { code: "ENOENT" });
  assert.equal(snapshotter.collect(new Set()), 1);
  await snapshotter.sweep();
  await stack(own, "whole", [{ name: "file", data: "2" }]);
  await snapshotter.settle();
  const again = await own.restart();
  assert.deepEqual([again.has("lost-0"), again.has("whole-0"), again.doubtful()], [false, true, []]);
});

for (const mount of ["file", "loop"] as const) {
  snapshotterContract(`erofs mounted by ${mount}`, async (t) => {
    if (noBosun !== undefined) return t.skip(noBosun) as undefined;
    const rig = await bosunRig(t);
    const why = await chooseSnapshotter(rig.root, rig.hand, mount).then(
      (choice) => (choice.name === "erofs" && choice.mount === mount ? undefined : `mounts by ${choice.mount}`),
      (error: Error) => error.message,
    );
    if (why !== undefined) return t.skip(why) as undefined;
    return await subject(t, rig, { name: "erofs", mount });
  });
}
