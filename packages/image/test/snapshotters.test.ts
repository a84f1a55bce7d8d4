/** The contract on every snapshotter, with node:fs and, where it is built, with bosun. */
import { type TestContext } from "node:test";
import { WorkerPool } from "../src/layers/pool.ts";
import { OverlayfsSnapshotter } from "../src/snapshots/overlayfs.ts";
import { openDatabase } from "../src/store/database.ts";
import { IMAGE_SCHEMA } from "../src/store/schema.ts";
import { snapshotterContract, type Subject } from "./snapshotter-contract.ts";
import { bosunRig, plainRig, type Rig, whyNoBosun } from "./support/store.ts";

async function overlayfs(t: TestContext, rig: Rig): Promise<Subject> {
  const database = await openDatabase(rig.root);
  database.migrate("image", IMAGE_SCHEMA);
  const pool = new WorkerPool(1);
  t.after(async () => {
    await pool.close();
    await database.close();
  });
  const open = async (): Promise<OverlayfsSnapshotter> =>
    await OverlayfsSnapshotter.open({ root: rig.root, hand: rig.hand, database, pool });
  return {
    snapshotter: await open(),
    openTree: async (draft) => await rig.hand.tree(draft.target.directory),
    restart: open,
    transaction: (work) => database.transaction(work),
  };
}

snapshotterContract("overlayfs", async (t) => {
  if (process.getuid?.() !== 0) return t.skip("needs root: whiteouts are devices") as undefined;
  return await overlayfs(t, plainRig(t));
});

snapshotterContract("overlayfs with bosun", async (t) => {
  const why = whyNoBosun();
  if (why !== undefined) return t.skip(why) as undefined;
  return await overlayfs(t, await bosunRig(t));
});
