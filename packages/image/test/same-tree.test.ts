/** Layers made at random are the same tree under every snapshotter: paths, owners, times, links, attributes, contents. */
import assert from "node:assert/strict";
import test from "node:test";
import fc from "fast-check";
import { WorkerPool } from "../src/layers/pool.ts";
import { openTarget } from "../src/layers/targets.ts";
import { type Choice, chooseSnapshotter } from "../src/snapshots/choose.ts";
import { SnapshotStore } from "../src/snapshots/store.ts";
import { openDatabase } from "../src/store/database.ts";
import { IMAGE_SCHEMA } from "../src/store/schema.ts";
import { stack, type Subject } from "./snapshotter-contract.ts";
import { missingPrograms, scanRootfs, type Tree } from "./support/scan.ts";
import { atEnd, bosunRig, type Rig, whyNoBosun } from "./support/store.ts";
import type { Member } from "./support/tar-writer.ts";
import type { TestContext } from "node:test";

const RUNS = Number(process.env["BERTH_PROPERTY_RUNS"] ?? 6);

/** Few names, so that layers meet; one of them is no UTF-8, one is long. */
const NAMES = ["a", "b", "c", "dir", "é".repeat(20), "\xff\xfe", "n".repeat(150)] as const;
const name = fc.constantFrom(...NAMES);
const path = fc.array(name, { minLength: 1, maxLength: 3 }).map((parts) => parts.join("/"));
const owner = fc.constantFrom(0, 1000, 70_000);
const common = fc.record({
  mode: fc.constantFrom(0o644, 0o4755, 0o600),
  uid: owner,
  gid: owner,
  mtime: fc.constantFrom(0, 1_600_000_000, 1_700_000_001),
});
const size = fc.constantFrom(0, 1, 1023, 1024, 1025, 4096, 5000, 70_000);
const attributes = fc.constantFrom<Record<string, string | Uint8Array>>(
  {},
  {},
  { "SCHILY.xattr.security.capability": Buffer.from("0100000200040000000000000000000000000000", "hex") },
  { "SCHILY.xattr.trusted.note": Buffer.from([0, 1, 255]) },
);

const member: fc.Arbitrary<Member> = fc.oneof(
  fc.record({ common, path, size, attributes }).map(({ common: meta, path: at, size: bytes, attributes: pax }) => ({
    ...meta,
    name: "f",
    data: Buffer.alloc(bytes, at),
    pax: { ...pax, path: latin1(at) },
  })),
  fc.record({ common, path }).map(({ common: meta, path: at }) => ({
    ...meta,
    name: "d",
    type: "5",
    mode: 0o755,
    pax: { path: latin1(at) },
  })),
  fc.record({ common, path, target: path }).map(({ common: meta, path: at, target }) => ({
    ...meta,
    name: "l",
    type: "2",
    pax: { path: latin1(at), linkpath: latin1(`nowhere/${target}`) },
  })),
  fc.record({ common, path }).map(({ common: meta, path: at }) => ({
    ...meta,
    name: "n",
    type: "3",
    major: 1,
    minor: 3,
    pax: { path: latin1(at) },
  })),
  fc.record({ path }).map(({ path: at }) => ({ name: "s", data: "end", pax: { ...sparse, path: latin1(at) } })),
  fc.record({ path }).map(({ path: at }) => ({ name: "w", pax: { path: latin1(whiteout(at)) } })),
  fc.record({ path }).map(({ path: at }) => ({ name: "o", pax: { path: latin1(`${at}/.wh..wh..opq`) } })),
);

const sparse = { "GNU.sparse.size": "200000", "GNU.sparse.numblocks": "1", "GNU.sparse.map": "100000,3" };
const latin1 = (text: string): Uint8Array => Buffer.from(text, "latin1");
const whiteout = (at: string): string => at.replace(/[^/]*$/, (base) => `.wh.${base}`.slice(0, 200));

/** Leaves out what goes through something that is no directory, which is refused, and links a file or two. */
function sensible(members: readonly Member[]): Member[] {
  const kinds = new Map<string, boolean>();
  const kept: Member[] = [];
  for (const each of members) {
    const at = Buffer.from(each.pax?.["path"] ?? "").toString("latin1");
    const parents = at.split("/").map((_, i, parts) => parts.slice(0, i).join("/"));
    if (parents.some((parent) => parent !== "" && kinds.get(parent) === false)) continue;
    for (const parent of parents) kinds.set(parent, true);
    if (!at.includes("/.wh.") && !at.startsWith(".wh.")) {
      const directory = each.type === "5";
      if (!directory) for (const known of kinds.keys()) if (known.startsWith(`${at}/`)) kinds.delete(known);
      kinds.set(at, directory);
    }
    kept.push(each);
  }
  const file = kept.findLast((each) => each.data !== undefined && each.name === "f");
  const target = Buffer.from(file?.pax?.["path"] ?? "").toString("latin1");
  if (file === undefined || kinds.get(target) !== false) return kept;
  return [...kept, { name: "h", type: "1", pax: { path: "linked", linkpath: latin1(target) } }];
}

async function subjectFor(t: TestContext, rig: Rig, choice: Choice): Promise<Subject> {
  const root = `${rig.root}-${choice.name}`;
  const tree = { module: "@berth/kernel", socket: rig.serveSocket };
  const database = await openDatabase(root);
  database.migrate("image", IMAGE_SCHEMA);
  const pool = new WorkerPool(1);
  const snapshotter = await SnapshotStore.open({ root, hand: rig.hand, database, pool, tree, choice });
  atEnd(t, async () => {
    await snapshotter.close();
    await pool.close();
    await database.close();
  });
  return {
    snapshotter,
    openTree: async (draft) => await openTarget(draft.target, tree),
    whole: true,
    restart: () => Promise.reject(new Error("not part of this test")),
    transaction: (work) => database.transaction(work),
  };
}

test("layers at random are one tree, whatever keeps them", async (t) => {
  const why = whyNoBosun() ?? missingPrograms("unshare", "python3");
  if (why !== undefined) return t.skip(why);
  const rig = await bosunRig(t);
  const erofs = await chooseSnapshotter(rig.root, rig.hand, undefined);
  if (erofs.name !== "erofs") return t.skip("no EROFS here");
  const subjects = [
    await subjectFor(t, rig, { name: "overlayfs" }),
    await subjectFor(t, rig, erofs),
    await subjectFor(t, rig, { name: "native" }),
  ];
  let run = 0;
  const layer = fc.array(member, { minLength: 1, maxLength: 12 }).map(sensible);
  await fc.assert(
    fc.asyncProperty(fc.array(layer, { minLength: 1, maxLength: 4 }), async (layers) => {
      const key = `run-${run++}`;
      const trees: (Tree | string)[] = [];
      for (const subject of subjects) trees.push(await treeOf(t, subject, key, layers));
      assert.deepEqual(trees[1], trees[0], "erofs and overlayfs");
      assert.deepEqual(trees[2], trees[0], "native and overlayfs");
    }),
    {
      numRuns: RUNS,
      endOnFailure: false,
      ...(process.env["BERTH_SEED"] && { seed: Number(process.env["BERTH_SEED"]) }),
    },
  );
  return undefined;
});

/** The tree, or why the layers were refused: that too is to be the same. */
async function treeOf(
  t: TestContext,
  subject: Subject,
  key: string,
  layers: readonly Member[][],
): Promise<Tree | string> {
  const { snapshotter } = subject;
  try {
    const chain = await stack(subject, key, ...layers);
    const tree = scanRootfs(t, await snapshotter.prepare(key, chain));
    await snapshotter.remove(key);
    // A root that no layer mentions has the time of its making.
    delete tree[""];
    return tree;
  } catch (error) {
    return (error as Error).message;
  }
}
