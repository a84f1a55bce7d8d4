/** Writable layers of a size: project quotas of ext4 and XFS where the kernel has them, a refusal that says why elsewhere. */
import assert from "node:assert/strict";
import { spawnSync } from "node:child_process";
import { existsSync, readdirSync } from "node:fs";
import { join } from "node:path";
import test, { type TestContext } from "node:test";
import type { Hand } from "@berth/kernel";
import { Images, type ImagesOptions } from "../src/images.ts";
import { Limits } from "../src/snapshots/quota.ts";
import type { Rootfs } from "../src/types.ts";
import { fileSystem } from "./support/filesystem.ts";
import { app, isError, registryFor, skip } from "./support/fixtures.ts";
import { atEnd, bosunRig, leftovers, openImages, optionsFor, type Rig, whyNoBosun } from "./support/store.ts";

const MIB = 1 << 20;

async function open(t: TestContext, rig: Rig, options: Partial<ImagesOptions>): Promise<[Images, string]> {
  const images = await openImages(t, rig, options);
  const registry = await registryFor(t);
  const reference = registry.push("a", "1", app("x"));
  await images.pull(reference);
  return [images, reference];
}

/**
 * What a container's root, which may not pass quotas by (CAP_SYS_RESOURCE), gets of writing `mib` MiB, and what df(1) says of
 * the file system there: its size in MiB.
 */
function write(rootfs: Rootfs, mib: number): { failed: boolean; said: string; sizeMiB: number } {
  const mount =
    rootfs.kind === "path"
      ? `mount --bind ${rootfs.path} "$1"`
      : `mount -t overlay -o lowerdir=${rootfs.lowers.join(":")},upperdir=${rootfs.upper},workdir=${rootfs.work} none "$1"`;
  const drop = "setpriv --bounding-set=-sys_resource --inh-caps=-sys_resource";
  const script = `mkdir -p "$1" && ${mount} || exit 9
df -k --output=size "$1" | tail -1
${drop} dd if=/dev/zero of="$1/tmp/big" bs=1M count=${mib} conv=fsync 2>&1`;
  const target = join(rootfs.kind === "path" ? rootfs.path : rootfs.work, "..", "seen");
  const { status, stdout } = spawnSync("unshare", ["-m", "sh", "-c", script, "sh", target], { encoding: "utf8" });
  assert.notEqual(status, 9, stdout);
  const [size = "", ...said] = stdout.split("\n");
  return { failed: status !== 0, said: said.join("; "), sizeMiB: Math.round(Number(size) / 1024) };
}

/** The project that a new directory gets where `from` is asked for: the same one where it is free. */
async function isFree(hand: Hand, root: string, id: number): Promise<boolean> {
  const home = join(root, `free-${id}`);
  const args = { path: home, project: 0x40000000 + id, bytes: 1n };
  const outputs = await hand.run({
    orders: [
      { order: "mkdir", args: { path: home, mode: 0o700, existOk: 0, parents: 0 } },
      { order: "project_quota", args },
      { order: "drop_quota", args: { path: home } },
      { order: "rmdir", args: { path: home, children: 0 } },
    ],
  });
  return Buffer.from(outputs.get(1) as Uint8Array).readUInt32LE() === args.project;
}

for (const kind of ["ext4", "xfs"] as const) {
  for (const snapshotter of [undefined, "overlayfs", "native"] as const) {
    const name = snapshotter ?? "the default snapshotter";
    test(`${kind}, ${name}: a writable layer ends at its size, and gives its project back`, skip, async (t) => {
      const why = whyNoBosun();
      if (why !== undefined) return t.skip(why);
      const disk = fileSystem(t, kind);
      if (typeof disk === "string") return t.skip(disk);
      const machine = await bosunRig(t);
      const rig = { ...machine, root: disk.root };
      const [images, reference] = await open(t, rig, { snapshotter, writableLayerSize: 4 * MIB });

      const small = await images.prepareRootfs("small", reference);
      const full = write(small, 8);
      assert.ok(full.failed, full.said);
      assert.match(full.said, /No space left on device|Disk quota exceeded/);
      assert.equal(full.sizeMiB, 4, "statfs(2) tells the limit");
      assert.ok((await images.rootfsUsage("small")).bytes <= 4 * MIB);

      const larger = await images.prepareRootfs("larger", reference, 12 * MIB);
      assert.equal(write(larger, 8).failed, false, "each has its own");
      const free = await images.prepareRootfs("free", reference, 0);
      assert.equal(write(free, 14).failed, false, "0 is without a limit");

      const ids = readdirSync(join(disk.root, "snapshots")).map(Number);
      let taken = 0;
      for (const id of ids) if (!(await isFree(machine.hand, disk.root, id))) taken++;
      assert.equal(taken, 2, "projects in use are passed over");
      for (const key of ["small", "larger", "free"]) await images.removeRootfs(key);
      for (const id of ids) assert.ok(await isFree(machine.hand, disk.root, id), `project of snapshot ${id}`);
      await images.remove(reference);
      assert.deepEqual(leftovers(rig.root), []);
      return undefined;
    });
  }

  test(`${kind}: limits survive a restart, and go with what a crash left`, skip, async (t) => {
    const why = whyNoBosun();
    if (why !== undefined) return t.skip(why);
    const disk = fileSystem(t, kind);
    if (typeof disk === "string") return t.skip(disk);
    const machine = await bosunRig(t);
    const rig = { ...machine, root: disk.root };
    const [before, reference] = await open(t, rig, {});
    await before.prepareRootfs("c", reference, 4 * MIB);
    await before.close();
    // As a crash between making a directory and its record would: nobody's, with a limit of its own.
    const stray = join(disk.root, "snapshots", "4711");
    await machine.hand.run({
      orders: [{ order: "mkdir", args: { path: stray, mode: 0o700, existOk: 0, parents: 0 } }],
    });
    await new Limits(machine.hand).set(stray, 4711, MIB);
    assert.equal(await isFree(machine.hand, disk.root, 4711), false);
    const images = await openImages(t, rig);
    assert.equal(existsSync(stray), false);
    assert.equal(await isFree(machine.hand, disk.root, 4711), true);
    assert.ok(write(images.rootfs("c") as Rootfs, 8).failed);
    await images.removeRootfs("c");
    return undefined;
  });
}

test("where there are no project quotas, sizes are refused, at the start and for one layer", skip, async (t) => {
  const why = whyNoBosun();
  if (why !== undefined) return t.skip(why);
  const rig = await bosunRig(t);
  const opened = await Images.open({ ...optionsFor(rig), writableLayerSize: MIB }).catch((error: unknown) => error);
  if (opened instanceof Images) {
    await opened.close();
    return t.skip("this file system has project quotas");
  }
  isError("Unsupported", /cannot be limited: .*; it takes Linux 5\.14 and ext4 .* prjquota$/)(opened);
  const [images, reference] = await open(t, rig, {});
  await assert.rejects(images.prepareRootfs("c", reference, MIB), isError("Unsupported", /prjquota/));
  assert.equal(images.rootfs("c"), undefined);
  atEnd(t, () => images.remove(reference));
  return undefined;
});
