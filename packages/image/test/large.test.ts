/**
 * Large images are the trees that umoci unpacks, whichever snapshotter keeps them. Here they are a hundredth of what they are
 * with BERTH_LARGE_IMAGES=1, which takes some minutes and 10 GB: 100,000 files, a file of 1 GiB, and a whole Debian, the one
 * that tests/guest boots.
 */
import assert from "node:assert/strict";
import { execFileSync } from "node:child_process";
import { existsSync, globSync, mkdirSync, readFileSync, rmSync } from "node:fs";
import { join } from "node:path";
import test, { type TestContext } from "node:test";
import { chooseSnapshotter } from "../src/snapshots/choose.ts";
import { whyNot } from "./support/docker-registry.ts";
import { build, FakeRegistry } from "./support/registry.ts";
import { scanRootfs } from "./support/scan.ts";
import { bosunRig, openImages, scratch } from "./support/store.ts";
import { archive, type Member } from "./support/tar-writer.ts";
import { umociTree, writeLayout } from "./support/umoci.ts";

const LARGE = process.env["BERTH_LARGE_IMAGES"] === "1";
const FILES = LARGE ? 100_000 : 1_000;
const BYTES = LARGE ? 2 ** 30 : 12 << 20;
/** umoci takes time by its square, and Python's recursion ends at 1,000. */
const DEPTH = LARGE ? 900 : 200;
const timeout = { timeout: 1_800_000 };

async function compare(t: TestContext, layers: readonly Buffer[]): Promise<void> {
  const missing = whyNot("umoci", "python3", "unshare");
  if (missing !== undefined) return t.skip(missing);
  const directory = scratch(t);
  const built = build(layers);
  writeLayout(join(directory, "layout"), built, "1");
  const theirs = umociTree(join(directory, "layout"), join(directory, "bundle"));
  rmSync(join(directory, "bundle"), { recursive: true });
  const registry = await FakeRegistry.start();
  t.after(() => registry.close());
  const reference = registry.push("large", "1", built);
  for (const snapshotter of ["erofs", "overlayfs", "native"] as const) {
    const rig = await bosunRig(t);
    const works = await chooseSnapshotter(rig.root, rig.hand, snapshotter).then(
      () => true,
      () => false,
    );
    if (!works) continue;
    const images = await openImages(t, rig, { snapshotter });
    const ours = scanRootfs(t, await images.prepareRootfs("c", await images.pull(reference)));
    assert.equal(Object.keys(ours).length, Object.keys(theirs).length, snapshotter);
    for (const [path, entry] of Object.entries(theirs)) assert.deepEqual(ours[path], entry, `${snapshotter}: ${path}`);
    await images.removeRootfs("c");
    await images.close();
    rmSync(rig.root, { recursive: true });
  }
}

const root: Member = { name: "./", type: "5", mode: 0o755, mtime: 1_600_000_000 };

test(`${FILES} small files`, timeout, async (t) => {
  const members: Member[] = [root];
  for (let index = 0; index < FILES; index++) {
    if (index % 250 === 0) members.push({ name: `d${index / 250}/`, type: "5", mode: 0o755, uid: index % 7 });
    members.push({
      name: `d${Math.floor(index / 250)}/f${index}`,
      data: `file ${index}`,
      mtime: 1_500_000_000 + index,
    });
  }
  const gone = Array.from({ length: 20 }, (_, index): Member => ({ name: `d0/.wh.f${index}` }));
  await compare(t, [archive(...members), archive(root, { name: "d0/", type: "5", mode: 0o700 }, ...gone)]);
});

test(`a file of ${BYTES >> 20} MiB, changed in the next layer, beside a sparse one`, timeout, async (t) => {
  const data = Buffer.alloc(BYTES, "a line of a file that is large\n");
  const sparse = { "GNU.sparse.size": String(BYTES), "GNU.sparse.numblocks": "1", "GNU.sparse.map": `${BYTES - 4},4` };
  await compare(t, [
    archive(root, { name: "large", data }, { name: "sparse", data: "tail", pax: sparse }),
    archive(root, { name: "large", data: data.subarray(0, BYTES / 8), mode: 0o600 }),
  ]);
});

test(`a tree ${DEPTH} directories deep`, timeout, async (t) => {
  const members: Member[] = [root];
  for (let depth = 1; depth <= DEPTH; depth++)
    members.push({ name: "d", type: "5", mode: 0o755, pax: { path: "d/".repeat(depth) } });
  members.push({ name: "f", data: "deep", pax: { path: `${"d/".repeat(DEPTH)}file` } });
  await compare(t, [archive(...members), archive(root, { name: "w", pax: { path: `${"d/".repeat(DEPTH)}.wh.file` } })]);
});

test("a Debian base system made by debootstrap", timeout, async (t) => {
  if (!LARGE) return t.skip("takes minutes: BERTH_LARGE_IMAGES=1");
  const [disk] = globSync(new URL("../../../.build/guest/*/root.ext4", import.meta.url).pathname);
  if (disk === undefined || !existsSync(disk)) return t.skip("tests/guest/build has not made one");
  const directory = scratch(t);
  const [mounted, file] = [join(directory, "mounted"), join(directory, "debian.tar")];
  mkdirSync(mounted);
  const copy = `mount -o loop,ro,noload ${disk} ${mounted} && tar -C ${mounted} --numeric-owner --xattrs --xattrs-include='*' -cf ${file} .`;
  execFileSync("unshare", ["-m", "sh", "-c", copy], { stdio: "pipe" });
  await compare(t, [readFileSync(file)]);
  return undefined;
});
