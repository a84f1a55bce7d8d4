/** A GUID partition table (UEFI 2.10, 5.3) as the blocks before and behind the partitions, which are files of their own. Pure. */
import { createHash } from "node:crypto";
import { crc32 } from "node:zlib";

const ENTRIES = 128;
const ENTRY = 128;
const HEADER = 92;
/** Where partitions begin, and what their ends are rounded to, in bytes. */
const FIRST = 1 << 20;
export const GRAIN = 4096;
/** "Linux filesystem data" (systemd's Discoverable Partitions Specification), as it lies in an entry. */
const LINUX = Buffer.from("af3dc60f838472478e793d69d8477de4", "hex");
const PROTECTIVE = 0xee;

export interface PartitionTable {
  /** Bytes from the disk's start on. */
  readonly head: Buffer;
  /** Bytes at the disk's end. */
  readonly tail: Buffer;
  /** Bytes: where each partition begins, and the room it takes on the disk. */
  readonly places: readonly { readonly start: number; readonly room: number }[];
}

export const PARTITIONS_MAX = ENTRIES;

/** `sizes`: of the partitions, in bytes; `sector`: the disk's logical sector. */
export function partitionTable(sizes: readonly number[], sector: number): PartitionTable {
  const places: { start: number; room: number }[] = [];
  let at = FIRST;
  for (const size of sizes) {
    const room = Math.ceil(size / GRAIN) * GRAIN;
    places.push({ start: at, room });
    at += room;
  }
  const entriesRoom = Math.ceil((ENTRIES * ENTRY) / sector);
  const last = at / sector + entriesRoom;
  const entries = Buffer.alloc(entriesRoom * sector);
  for (const [index, { start }] of places.entries()) {
    const entry = entries.subarray(index * ENTRY, (index + 1) * ENTRY);
    LINUX.copy(entry, 0);
    identity(`partition ${index}`).copy(entry, 16);
    entry.writeBigUInt64LE(BigInt(start / sector), 32);
    entry.writeBigUInt64LE(BigInt((start + (sizes[index] ?? 0)) / sector - 1), 40);
  }
  const usable = { first: 2 + entriesRoom, last: last - entriesRoom - 1 };
  const checksum = crc32(entries.subarray(0, ENTRIES * ENTRY));
  const header = (mine: number, other: number, table: number): Buffer => {
    const block = Buffer.alloc(sector);
    block.write("EFI PART", 0, "latin1");
    block.writeUInt32LE(0x10000, 8);
    block.writeUInt32LE(HEADER, 12);
    for (const [offset, value] of [
      [24, mine],
      [32, other],
      [40, usable.first],
      [48, usable.last],
      [72, table],
    ] as const)
      block.writeBigUInt64LE(BigInt(value), offset);
    identity("disk").copy(block, 56);
    block.writeUInt32LE(ENTRIES, 80);
    block.writeUInt32LE(ENTRY, 84);
    block.writeUInt32LE(checksum, 88);
    block.writeUInt32LE(crc32(block.subarray(0, HEADER)), 16);
    return block;
  };
  const head = Buffer.alloc(FIRST);
  protective(last).copy(head);
  header(1, last, 2).copy(head, sector);
  entries.copy(head, 2 * sector);
  return { head, tail: Buffer.concat([entries, header(last, 1, last - entriesRoom)]), places };
}

/** The same table is made again by the same calls. */
const identity = (what: string): Buffer => createHash("sha256").update(what).digest().subarray(0, 16);

/** A master boot record that keeps others from taking the disk for empty. */
function protective(last: number): Buffer {
  const record = Buffer.alloc(512);
  record.writeUInt32LE(0x00000200, 446);
  record[450] = PROTECTIVE;
  record.writeUInt32LE(1, 454);
  record.writeUInt32LE(Math.min(last, 0xffffffff), 458);
  record.writeUInt16LE(0xaa55, 510);
  return record;
}
