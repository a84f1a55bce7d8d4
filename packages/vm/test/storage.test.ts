/** Layers as one disk: what QEMU makes of its description, and what a kernel would read of its partition table. */
import assert from "node:assert/strict";
import { spawnSync } from "node:child_process";
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterEach, beforeEach, test } from "node:test";
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
      const [, sectors = "0", file] = /^RW (\d+) (?:ZERO|FLAT "(.*)" 0)$/.exec(line) ?? [];
      const piece = file === undefined ? Buffer.alloc(Number(sectors) * 512) : readFileSync(file);
      assert.equal(piece.length, Number(sectors) * 512);
      return piece;
    });
  return Buffer.concat(pieces);
}

test("layers are partitions of one disk", async () => {
  const images = layers(4096, (1 << 20) + 4096, 3 << 20);
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
