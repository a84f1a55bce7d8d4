/** Layers sealed by fs-verity or dm-verity: mounted as they were committed or not at all, and mended by fsck. */
import assert from "node:assert/strict";
import { execFileSync, spawnSync } from "node:child_process";
import { copyFileSync, readdirSync, readFileSync, renameSync, rmSync, statSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { DatabaseSync } from "node:sqlite";
import test, { type TestContext } from "node:test";
import { appendHashTree, hashImage } from "../src/erofs/hash-tree.ts";
import { ErofsTree } from "../src/erofs/writer.ts";
import { Images } from "../src/images.ts";
import { decodeSeal, type Seal, type Verity } from "../src/snapshots/seal.ts";
import { type FileSystem, fileSystem } from "./support/filesystem.ts";
import { isError, registryFor } from "./support/fixtures.ts";
import { build } from "./support/registry.ts";
import { missingPrograms } from "./support/scan.ts";
import {
  atEnd,
  bosunRig,
  leftovers,
  openImages,
  optionsFor,
  overlayOf,
  type Rig,
  scratch,
  whyNoBosun,
} from "./support/store.ts";
import { archive } from "./support/tar-writer.ts";

/** Nothing else on a disk looks like this. */
const MARK = "what the layer says, and nobody changes";
const image = build([
  archive({ name: "etc/", type: "5", mode: 0o755 }, { name: "etc/base", data: "base" }),
  // More than is kept beside an inode, so that an image opens all right that has it changed.
  archive({ name: "etc/mark", data: MARK.padEnd(20_000, ".") }, { name: "big", data: Buffer.alloc(3 << 20, "b") }),
]);

interface Sealed {
  readonly rig: Rig;
  readonly disk: FileSystem;
  readonly images: Images;
  readonly reference: string;
}

/** A store with the image, or why there is none: then that has been told as it should. */
async function sealed(t: TestContext, verity: Verity): Promise<Sealed | string> {
  const why = whyNoBosun();
  if (why !== undefined) return why;
  const disk = fileSystem(t, "ext4", "defaults");
  const machine = await bosunRig(t);
  const rig = typeof disk === "string" ? machine : { ...machine, root: disk.root };
  const opened = await Images.open({ ...optionsFor(rig), verity }).catch((error: unknown) => {
    const [option, kernel] =
      verity === "fsverity" ? ["enable_fsverity", "CONFIG_FS_VERITY"] : ["dmverity_mode", "modprobe dm-verity"];
    isError(
      "Unsupported",
      new RegExp(`^${option} does not work on .*${kernel}|^the erofs snapshotter does not work`),
    )(error);
    return (error as Error).message;
  });
  if (typeof opened === "string") return opened;
  atEnd(t, () => opened.close());
  if (typeof disk === "string") return disk;
  await opened.recover();
  const registry = await registryFor(t);
  const reference = registry.push("a", "1", image);
  await opened.pull(reference);
  return { rig, disk, images: opened, reference };
}

const marked = (images: Images, key: string): string =>
  readFileSync(join(overlayOf(images.rootfs(key) as never).lowers[0] as string, "etc/mark"), "utf8");

function seals(root: string): { path: string; seal: Seal }[] {
  const database = new DatabaseSync(join(root, "berth.db"), { readOnly: true });
  const rows = database.prepare("SELECT id, seal FROM snapshots WHERE kind = 'layer' ORDER BY id").all();
  database.close();
  return rows.map((row) => ({
    path: join(root, "snapshots", String(row["id"]), "layer.erofs"),
    seal: decodeSeal(String(row["seal"])),
  }));
}

const devices = (): string =>
  ["losetup --list --noheadings -O BACK-FILE", "ls /sys/class/block"]
    .map((command) => execFileSync("sh", ["-c", command], { encoding: "utf8" }))
    .join("")
    .split("\n")
    .filter((line) => line.includes("layer.erofs") || line.startsWith("dm-"))
    .join("; ");

async function problems(images: Images, repair: boolean): Promise<string[]> {
  const found: string[] = [];
  for await (const { kind, problem, repair: done = "" } of images.check({ repair }))
    found.push(`${kind}: ${problem} / ${done}`);
  return found;
}

/** Changes the mark where it lies on the disk, behind the file system's back. */
function flipOnDisk(disk: FileSystem): void {
  disk.unmount();
  const bytes = readFileSync(disk.file);
  let flipped = 0;
  for (let at = bytes.indexOf(MARK); at >= 0; at = bytes.indexOf(MARK, at + 1), flipped++)
    bytes[at] = (bytes[at] as number) ^ 1;
  assert.ok(flipped > 0, "the mark is on the disk");
  writeFileSync(disk.file, bytes);
  disk.mount();
}

for (const verity of ["fsverity", "dmverity"] as const) {
  test(`${verity}: what was committed is mounted, and what was changed since is neither mounted nor read`, async (t) => {
    const store = await sealed(t, verity);
    if (typeof store === "string") return t.skip(store);
    const { rig, disk, images, reference } = store;
    await images.prepareRootfs("c", reference);
    assert.ok(marked(images, "c").startsWith(MARK));
    assert.deepEqual(await problems(images, false), []);
    const [, top] = seals(rig.root);
    assert.equal(top?.seal.kind, verity);
    checkByPeer(top);
    await images.removeRootfs("c");
    assert.equal(devices(), "", "devices go with the mounts");

    if (verity === "dmverity") {
      const bytes = readFileSync(top.path);
      const at = bytes.indexOf(MARK);
      bytes[at] = (bytes[at] as number) ^ 1;
      writeFileSync(top.path, bytes);
    } else {
      await images.close();
      flipOnDisk(disk);
    }
    const again = verity === "dmverity" ? images : await openImages(t, rig, { verity });
    execFileSync("sh", ["-c", "echo 3 >/proc/sys/vm/drop_caches"]);
    await again.prepareRootfs("c", reference);
    assert.throws(() => marked(again, "c"), /EIO/);
    await again.removeRootfs("c");
    const [found = "", ...more] = await problems(again, true);
    assert.deepEqual(more, []);
    assert.match(found, /^layer: .*(cannot be read|dm-verity root|differs from|another length).* \/ unpacked again$/);
    assert.deepEqual(await problems(again, false), []);
    await again.prepareRootfs("c", reference);
    assert.ok(marked(again, "c").startsWith(MARK));
    await again.removeRootfs("c");
    await again.remove(reference);
    assert.deepEqual(leftovers(rig.root), []);
    return undefined;
  });

  test(`${verity}: another file in the image's place is refused`, async (t) => {
    const store = await sealed(t, verity);
    if (typeof store === "string") return t.skip(store);
    const { rig, images, reference } = store;
    const [, top] = seals(rig.root);
    const path = top?.path as string;
    // The same bytes but one, of which the file system knows no digest, or another one.
    copyFileSync(path, `${path}.other`);
    const bytes = readFileSync(path);
    bytes.fill(0, 1024, 1028);
    writeFileSync(`${path}.other`, bytes);
    rmSync(path);
    renameSync(`${path}.other`, path);
    const code = verity === "fsverity" ? "DigestMismatch" : "Internal";
    await assert.rejects(images.prepareRootfs("c", reference), isError(code, /fs-verity|mount layers/));
    assert.equal(images.rootfs("c"), undefined);
    assert.equal(devices(), "");
    assert.equal((await problems(images, true)).length, 1);
    await images.prepareRootfs("c", reference);
    assert.ok(marked(images, "c").startsWith(MARK));
    await images.removeRootfs("c");
    return undefined;
  });

  test(`${verity}: layers from before it was switched on are made again with it`, async (t) => {
    const store = await sealed(t, verity);
    if (typeof store === "string") return t.skip(store);
    const { rig, images, reference } = store;
    await images.close();
    const plain = await openImages(t, rig);
    await plain.remove(reference);
    const registry = await registryFor(t);
    const name = registry.push("b", "1", image);
    await plain.pull(name);
    await plain.close();
    const again = await openImages(t, rig, { verity });
    assert.deepEqual(
      seals(rig.root).map(({ seal }) => seal.kind),
      [verity, verity],
    );
    await again.prepareRootfs("c", name);
    assert.ok(marked(again, "c").startsWith(MARK));
    await again.removeRootfs("c");
    await again.remove(name);
    assert.deepEqual(leftovers(rig.root), []);
    return undefined;
  });
}

/** The tools of the kernel's own people say the same of the file. */
function checkByPeer({ path, seal: { kind, digest, blocks } }: { path: string; seal: Seal }): void {
  if (kind === "fsverity" && missingPrograms("fsverity") === undefined)
    assert.equal(execFileSync("fsverity", ["digest", "--compact", path], { encoding: "utf8" }).trim(), digest);
  if (kind === "dmverity") verifyTree(path, digest, blocks);
}

function verifyTree(path: string, root: string, blocks: number): void {
  if (missingPrograms("veritysetup") !== undefined) return;
  const layout = ["--no-superblock", "--format=1", "--hash=sha256", "--salt=-", `--data-blocks=${blocks}`];
  const argv = ["verify", ...layout, `--hash-offset=${blocks * 4096}`, path, path, root];
  const { status, stderr } = spawnSync("veritysetup", argv, { encoding: "utf8" });
  assert.equal(status, 0, stderr);
}

test("hash trees of images of one block, of one level and of two, as veritysetup verifies them", async (t) => {
  const disk = scratch(t);
  for (const [index, size] of [0, 5_000, 100 * 4096, 129 * 4096, 20_000_000].entries()) {
    const path = join(disk, `image-${index}`);
    const tree = await ErofsTree.create(path);
    if (size > 0) {
      await tree.file(Buffer.from("f"), 0o644, BigInt(size), { uid: 0, gid: 0, mtime: 0n });
      for (let at = 0; at < size; at += 1 << 20)
        await tree.data(Buffer.alloc(Math.min(1 << 20, size - at), `${at} and so on`));
    }
    await tree.end(false);
    const before = readFileSync(path);
    const { root, blocks } = await appendHashTree(path);
    assert.equal(blocks * 4096, before.length);
    assert.ok(readFileSync(path).subarray(0, before.length).equals(before), "the image stays as it was");
    const size1 = statSync(path).size;
    assert.deepEqual(await appendHashTree(path), { root, blocks }, "again, in its place");
    assert.equal(statSync(path).size, size1);
    assert.deepEqual(await hashImage(path), { root, blocks });
    verifyTree(path, root, blocks);
    const bytes = readFileSync(path);
    bytes[before.length - 1] = (bytes[before.length - 1] as number) ^ 1;
    writeFileSync(path, bytes);
    assert.notEqual((await hashImage(path)).root, root);
  }
  assert.equal(readdirSync(disk).length, 5);
});
