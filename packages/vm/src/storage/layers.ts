/** The layers of an image as one disk: QEMU reads the images one behind the other, as a VMDK's flat extents with a partition table around them. */
import { createHash } from "node:crypto";
import { mkdir, rename, stat, writeFile } from "node:fs/promises";
import { VmError } from "../errors.ts";
import type { Disk } from "../hypervisor/machine.ts";
import { GRAIN, PARTITIONS_MAX, partitionTable } from "./gpt.ts";

export interface LayersDisk {
  readonly disk: Disk;
  /** Behind the disk's device, for each layer as they were given: "" for a whole disk, "1" for a partition. */
  readonly partitions: readonly string[];
}

const SECTOR = 512;
const EXTENT_SECTOR = 512;
const KEY_LENGTH = 12;

/** By the images alone: the same layers are the same disk for all of a pod's containers. */
export const layersKey = (images: readonly string[]): string =>
  createHash("sha256").update(images.join("\0")).digest("hex").slice(0, KEY_LENGTH);

/** `images`: EROFS images, at least one. Makes what describes the disk in `directory`. Rejects with VmError Unsupported. */
export async function layersDisk(
  images: readonly string[],
  directory: string,
  { logicalSector, hypervisor }: { readonly logicalSector: number; readonly hypervisor: string },
): Promise<LayersDisk> {
  const id = `l${layersKey(images)}`;
  const [first = ""] = images;
  if (images.length === 1) return { disk: { id, path: first, readonly: true }, partitions: [""] };
  if (hypervisor !== "qemu")
    throw new VmError(
      "Unsupported",
      `an image of ${images.length} layers as a block device: ${hypervisor} cannot join files to one disk; use QEMU, or shared_fs = "virtio-fs"`,
    );
  if (images.length > PARTITIONS_MAX)
    throw new VmError(
      "Unsupported",
      `an image of ${images.length} layers as a block device: a disk has at most ${PARTITIONS_MAX}; use shared_fs = "virtio-fs"`,
    );
  await mkdir(directory, { recursive: true, mode: 0o700 });
  const path = `${directory}/${id}.vmdk`;
  await describe(path, images, logicalSector || SECTOR);
  return {
    disk: { id, path, readonly: true, format: "vmdk" },
    partitions: images.map((_, index) => String(index + 1)),
  };
}

async function describe(path: string, images: readonly string[], sector: number): Promise<void> {
  const sizes = await Promise.all(images.map(async (image) => (await stat(image)).size));
  const table = partitionTable(sizes, sector);
  const [head, tail, filler] = [`${path}.head`, `${path}.tail`, `${path}.filler`];
  await writeFile(head, table.head, { mode: 0o600 });
  await writeFile(tail, table.tail, { mode: 0o600 });
  await writeFile(filler, Buffer.alloc(GRAIN), { mode: 0o600 });
  const extents = [flat(table.head.length, head)];
  for (const [index, image] of images.entries()) {
    const size = sizes[index] ?? 0;
    const rest = (table.places[index]?.room ?? 0) - size;
    extents.push(flat(size, image));
    // QEMU passes over extents of zeros.
    if (rest > 0) extents.push(flat(rest, filler));
  }
  extents.push(flat(table.tail.length, tail));
  const text = [
    "# Disk DescriptorFile",
    "version=1",
    "CID=fffffffe",
    "parentCID=ffffffff",
    'createType="twoGbMaxExtentFlat"',
    ...extents,
    "",
  ];
  await writeFile(`${path}.new`, text.join("\n"), { mode: 0o600 });
  await rename(`${path}.new`, path);
}

/** "RW" is QEMU's only word; it is opened read-only as its disk is. */
function flat(size: number, path: string): string {
  if (/["\n\r]/.test(path) || Buffer.byteLength(path) > PATH_MAX)
    throw new VmError("Unsupported", `${path}: a layer's path must have no quotes and at most ${PATH_MAX} bytes`);
  return `RW ${size / EXTENT_SECTOR} FLAT "${path}" 0`;
}

/** Of block/vmdk.c. */
const PATH_MAX = 511;
