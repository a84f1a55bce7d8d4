/** Layers as one disk: what QEMU makes of its description, and what a kernel would read of its partition table. */
import assert from "node:assert/strict";
import { execFileSync, spawnSync } from "node:child_process";
import {
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  renameSync,
  rmSync,
  symlinkSync,
  writeFileSync,
} from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterEach, beforeEach, test } from "node:test";
import {
  addDirectVolume,
  findDirectVolume,
  podOfDirectVolume,
  removeDirectVolume,
} from "../src/storage/direct-volumes.ts";
import { statsJson } from "../src/storage/volume-size.ts";
import { changesOf, readTree } from "../src/storage/tree.ts";
import { settingsOf } from "../src/configuration/settings.ts";
import { nineOptions, nineShare } from "../src/storage/nine.ts";
import { partitionTable } from "../src/storage/gpt.ts";
import { layersDisk } from "../src/storage/layers.ts";

let dir: string;
beforeEach(() => {
  dir = mkdtempSync(join(tmpdir(), "berth-vm-layers-"));
});
afterEach(() => rmSync(dir, { recursive: true }));

const QEMU = { logicalSector: 0, hypervisor: "qemu" };

function layers(...sizes: number[]): string[] {
  return sizes.map((size, index) => {
    const path = join(dir, `layer "${index}"`.replaceAll('"', ""));
    writeFileSync(path, Buffer.alloc(size, `layer ${index};`));
    return path;
  });
}

/** The disk as QEMU shows it: the extents of its description, one behind the other. */
function assembled(path: string): Buffer {
  const pieces = readFileSync(path, "utf8")
    .split("\n")
    .filter((line) => line.startsWith("RW "))
    .map((line) => {
      const [, sectors = "0", file] = /^RW (\d+) FLAT "(.*)" 0$/.exec(line) ?? [];
      const piece = readFileSync(file ?? "").subarray(0, Number(sectors) * 512);
      assert.equal(piece.length, Number(sectors) * 512);
      return piece;
    });
  return Buffer.concat(pieces);
}

test("layers are partitions of one disk", async () => {
  const images = layers(4096, (1 << 20) + 512, 3 << 20);
  const { disk, partitions } = await layersDisk(images, join(dir, "disks"), QEMU);
  assert.deepEqual(partitions, ["1", "2", "3"]);
  assert.equal(disk.readonly, true);
  assert.match(disk.id, /^l[0-9a-f]{12}$/);
  const whole = assembled(disk.path);
  for (const [index, image] of images.entries()) {
    const entry = whole.subarray(1024 + index * 128, 1024 + (index + 1) * 128);
    const [start, end] = [Number(entry.readBigUInt64LE(32)), Number(entry.readBigUInt64LE(40))];
    assert.deepEqual(whole.subarray(start * 512, (end + 1) * 512), readFileSync(image));
  }
  // Both copies by their checksums, as libblkid reads them: the second counts where the first is broken.
  const tableOf = (bytes: Buffer): string => {
    writeFileSync(join(dir, "raw"), bytes);
    return spawnSync("blkid", ["-p", "-o", "value", "-s", "PTTYPE", join(dir, "raw")], { encoding: "utf8" }).stdout;
  };
  assert.equal(tableOf(whole), "gpt\n");
  const broken = Buffer.from(whole);
  broken.fill(0, 512, 1024);
  assert.equal(tableOf(broken), "gpt\n");
  broken.fill(0, broken.length - 512);
  assert.notEqual(tableOf(broken), "gpt\n");
});

test("a table for another sector size says the same bytes", () => {
  const sizes = [4096, 1 << 20];
  const [small, large] = [partitionTable(sizes, 512), partitionTable(sizes, 4096)];
  assert.deepEqual(small.places, large.places);
  assert.equal(large.head.toString("latin1", 4096, 4104), "EFI PART");
  assert.equal(small.head.toString("latin1", 512, 520), "EFI PART");
});

test("one layer is a disk by itself, and what cannot be one is refused", async () => {
  const [one = ""] = layers(4096);
  const single = await layersDisk([one], join(dir, "disks"), { ...QEMU, hypervisor: "clh" });
  assert.deepEqual([single.disk.path, single.partitions], [one, [""]]);
  await assert.rejects(
    layersDisk([one, one], join(dir, "disks"), { ...QEMU, hypervisor: "firecracker" }),
    /an image of 2 layers as a block device: firecracker cannot join files to one disk/,
  );
  const many = Array.from({ length: 129 }, () => one);
  await assert.rejects(layersDisk(many, join(dir, "disks"), QEMU), /an image of 129 layers .* at most 128/);
  const quoted = join(dir, 'a"b');
  writeFileSync(quoted, Buffer.alloc(4096));
  await assert.rejects(layersDisk([one, quoted], join(dir, "disks"), QEMU), /must have no quotes/);
});

test("direct volumes are kept as Kata keeps them", async () => {
  const [root, path] = [join(dir, "direct-volumes"), "/var/lib/kubelet/pods/1/volumes/a?b"];
  const info = { "volume-type": "block", device: "/dev/sdx", fstype: "ext4", metadata: {}, options: ["noatime"] };
  assert.equal(await findDirectVolume(path, root), undefined);
  await addDirectVolume(path, JSON.stringify(info), root);
  // Go's base64.URLEncoding, with its padding.
  const name = "L3Zhci9saWIva3ViZWxldC9wb2RzLzEvdm9sdW1lcy9hP2I=";
  assert.deepEqual(readdirSync(root), [name]);
  assert.deepEqual(JSON.parse(readFileSync(join(root, name, "mountInfo.json"), "utf8")), info);
  assert.deepEqual(await findDirectVolume(path, root), info);
  for (const [wrong, words] of [
    ["{", /mount info: /],
    ['{"fstype":"ext4"}', /mount info: device: give the absolute path/],
    ['{"device":"/dev/sdx"}', /mount info: fstype: name the file system/],
    ['{"device":"/dev/sdx","fstype":"ext4","options":"ro"}', /mount info: options: give a list/],
    ['{"volume-type":"vfiovol","device":"/dev/sdx","fstype":"ext4"}', /mount info: volume-type "vfiovol": /],
    [
      '{"device":"/dev/sdx","fstype":"ext4","metadata":{"encryptionKey":"k"}}',
      /mount info: metadata\.encryptionKey: .* do it on the node/,
    ],
  ] as const)
    await assert.rejects(addDirectVolume(path, wrong, root), words);
  await assert.rejects(podOfDirectVolume(path, root), /^VmError: no sandbox found for \/var\/lib/);
  writeFileSync(join(root, name, "0123"), "");
  assert.equal(await podOfDirectVolume(path, root), "0123");
  await removeDirectVolume(path, root);
  await removeDirectVolume(path, root);
  await assert.rejects(podOfDirectVolume(path, root), /ENOENT/);
  assert.deepEqual(readdirSync(root), []);
});

test("a volume's statistics are what Go's encoder makes of Kata's message", () => {
  const usage = { available: 1n << 60n, total: 1n << 61n, used: 1n << 60n };
  const text = statsJson({
    usage: [
      { unit: "bytes", ...usage },
      { unit: "inodes", available: 3n, total: 3n, used: 0n },
    ],
    condition: { abnormal: false, message: "OK" },
  });
  assert.equal(
    text,
    '{"usage":[{"available":1152921504606846976,"total":2305843009213693952,"used":1152921504606846976,"unit":1},{"available":3,"total":3,"unit":2}],"volume_condition":{"message":"OK"}}',
  );
});

test("what has changed in a volume that is copied", async () => {
  const root = join(dir, "volume");
  mkdirSync(join(root, "..1"), { recursive: true });
  for (const name of ["a", "b"]) writeFileSync(join(root, "..1", name), name);
  symlinkSync("..1", join(root, "..data"));
  const before = await readTree(root);
  assert.deepEqual([...before.keys()].sort(), [".", "..1", "..1/a", "..1/b", "..data"]);
  assert.deepEqual(changesOf(before, await readTree(root)), { put: [], gone: [] });
  renameSync(join(root, "..1"), join(root, "..2"));
  rmSync(join(root, "..data"));
  symlinkSync("..2", join(root, "..data"));
  writeFileSync(join(root, "..2", "a"), "other");
  const now = await readTree(root);
  const { put, gone } = changesOf(before, now);
  assert.deepEqual(put, ["..2", "..2/a", "..2/b", "..data"]);
  assert.deepEqual(gone.slice(-1), ["..1"]);
  assert.deepEqual(gone.toSorted(), ["..1", "..1/a", "..1/b"]);
  execFileSync("mkfifo", [join(root, "pipe")]);
  await assert.rejects(readTree(root), /pipe: sockets, pipes and devices cannot be copied into a machine/);
  rmSync(join(root, "pipe"));
  writeFileSync(join(root, "large"), Buffer.alloc((8 << 20) + 1));
  await assert.rejects(readTree(root), /more than 8 MiB or 1024 files cannot be copied/);
});

test("a 9p share is QEMU's, where the guest's kernel has it", () => {
  const settings = settingsOf({ hypervisor: { qemu: { shared_fs: "virtio-9p", msize_9p: 65536 } } });
  const files = { kernel: "/vmlinuz", initrd: "/initrd", image: undefined, has9p: true };
  const nine = nineShare(settings, files, "/run/vm/pod");
  assert.deepEqual(nine, { tag: "berthShared", path: "/run/vm/pod/ro" });
  assert.equal(nineOptions(settings), "trans=virtio,version=9p2000.L,cache=mmap,msize=65536");
  assert.equal(nineShare(settings, { ...files, has9p: false }, "/run/vm/pod"), undefined);
  assert.equal(nineShare(settings, { ...files, agent: "kata" }, "/run/vm/pod"), undefined);
  assert.equal(nineShare(settingsOf({}), files, "/run/vm/pod"), undefined);
});
