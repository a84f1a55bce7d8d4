/**
 * A root file system as a file that is an NVDIMM and a disk alike (the layout of Kata's images). Linux maps an NVDIMM for DAX where an info
 * block says so (drivers/nvdimm/pfn.h, "fsdax" mode with its pages in RAM): /dev/pmem0 begins behind it. Both have a partition table, so
 * that the file system is the first partition of either.
 *
 *     0       master boot record: the disk's
 *     4 KiB   info block
 *     2 MiB   master boot record: the NVDIMM's
 *     4 MiB   the file system, and behind it dm-verity's hashes of it, to a multiple of 2 MiB
 */
import { createHash } from "node:crypto";

const MIB = 1 << 20;
/** What memory is mapped by (x86), in which an NVDIMM begins and ends. */
const ALIGNMENT = 2 * MIB;
const DATA = ALIGNMENT;
const FILE_SYSTEM = 2 * ALIGNMENT;
const INFO = { at: 4096, size: 4096, checksum: 4088 };
const PAGE = 4096;
const SECTOR = 512;
const LINUX = 0x83;
/** PFN_MODE_RAM: the guest keeps the pages' descriptors in its memory, as it cannot write here. */
const IN_RAM = 1;

/** `hashes`: dm-verity's, of the file system: the second partition. */
export function nvdimmImage(fileSystem: Uint8Array, hashes: Uint8Array): Buffer {
  const behind = FILE_SYSTEM + Math.ceil(fileSystem.length / PAGE) * PAGE;
  const size = Math.ceil((behind + hashes.length) / ALIGNMENT) * ALIGNMENT;
  const parts = [
    { start: FILE_SYSTEM, size: fileSystem.length },
    { start: behind, size: hashes.length },
  ];
  const image = Buffer.alloc(size);
  bootRecord(parts).copy(image, 0);
  infoBlock(size, fileSystem).copy(image, INFO.at);
  bootRecord(parts.map((part) => ({ ...part, start: part.start - DATA }))).copy(image, DATA);
  image.set(fileSystem, FILE_SYSTEM);
  image.set(hashes, behind);
  return image;
}

interface Part {
  readonly start: number;
  readonly size: number;
}

/** Sectors are numbered from the start of the device alone: geometries are long gone. */
function bootRecord(parts: readonly Part[]): Buffer {
  const record = Buffer.alloc(SECTOR);
  for (const [index, { start, size }] of parts.entries()) {
    const entry = 446 + index * 16;
    record[entry + 4] = LINUX;
    record.writeUInt32LE(start / SECTOR, entry + 8);
    record.writeUInt32LE(Math.ceil(size / SECTOR), entry + 12);
  }
  record.writeUInt16LE(0xaa55, 510);
  return record;
}

/** struct nd_pfn_sb, version 1.4. */
function infoBlock(size: number, content: Uint8Array): Buffer {
  const block = Buffer.alloc(INFO.size);
  block.write("NVDIMM_PFN_INFO\0", 0, "latin1");
  createHash("sha256").update(content).digest().copy(block, 16, 0, 16);
  block.writeUInt16LE(1, 52);
  block.writeUInt16LE(4, 54);
  block.writeBigUInt64LE(BigInt(DATA), 56);
  block.writeBigUInt64LE(BigInt((size - DATA) / PAGE), 64);
  block.writeUInt32LE(IN_RAM, 72);
  block.writeUInt32LE(ALIGNMENT, 84);
  block.writeUInt32LE(PAGE, 88);
  // Of struct page.
  block.writeUInt16LE(64, 92);
  block.writeBigUInt64LE(fletcher64(block), INFO.checksum);
  return block;
}

/** As the kernel's nd_fletcher64, with the sum's own field zero. */
function fletcher64(block: Buffer): bigint {
  let [low, high] = [0, 0n];
  for (let at = 0; at < block.length; at += 4) {
    low = (low + block.readUInt32LE(at)) >>> 0;
    high += BigInt(low);
  }
  return ((high << 32n) | BigInt(low)) & 0xffffffffffffffffn;
}
