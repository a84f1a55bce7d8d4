/** The second half of an image: inodes with what lies beside them, then the blocks of large directories. */
import { directorySize, encodeDirectory } from "./directory.ts";
import {
  align,
  BLOCK,
  COMPACT_SIZE,
  EXTENDED_SIZE,
  LAYOUT,
  S_IFBLK,
  S_IFCHR,
  S_IFMT,
  SLOT,
  type SuperBlock,
} from "./format.ts";
import { type Inode, inodesOf } from "./model.ts";
import type { Output } from "./output.ts";
import { xattrCount } from "./xattrs.ts";

/** The root's number must not be 0: readdir(3) passes over such entries. */
const FIRST = 2 * SLOT;
const CHUNK_ENTRY = 4;

interface Placed {
  readonly inodes: readonly Inode[];
  readonly parents: ReadonlyMap<Inode, Inode>;
  readonly time: readonly [seconds: number, nanoseconds: number];
  /** Bytes of the inode area. */
  readonly size: number;
}

/** At the output's position, which is at the start of a block. */
export async function writeMetadata(output: Output, root: Inode): Promise<SuperBlock> {
  const metaBlock = output.position / BLOCK;
  const placed = place(root);
  placeDirectories(placed, metaBlock);
  let chunked = false;
  for (const inode of placed.inodes) {
    await output.zeros(metaBlock * BLOCK + inode.offset - output.position);
    await writeInode(output, inode, placed);
    chunked ||= inode.chunks !== undefined;
  }
  await output.toBlock();
  for (const inode of placed.inodes) {
    if (inode.children === undefined || inode.inline !== undefined) continue;
    await output.write(encodeDirectory(inode, placed.parents.get(inode) ?? inode));
    await output.toBlock();
  }
  const [time, timeNs] = placed.time;
  const blocks = output.position / BLOCK;
  return { rootNid: root.offset / SLOT, inodes: placed.inodes.length, time, timeNs, blocks, metaBlock, chunked };
}

/** Gives every inode its place, the root first. */
function place(root: Inode): Placed {
  const inodes = [...inodesOf(root)];
  const parents = new Map<Inode, Inode>();
  const time = mostFrequentTime(inodes);
  let at = FIRST;
  for (const inode of inodes) {
    prepare(inode, parents);
    const size = headSize(inode, time);
    const beside = inode.chunks === undefined ? (inode.inline?.length ?? 0) : 0;
    at = align(at, SLOT);
    // Neither an inode nor its inline data crosses a block.
    const whole = size + beside <= BLOCK ? size + beside : Math.min(size, EXTENDED_SIZE);
    if ((at % BLOCK) + whole > BLOCK) at = align(at, BLOCK);
    // Attributes that fill blocks of their own push the inline data behind them on a block of its own.
    if (beside > 0 && ((at + size) % BLOCK) + beside > BLOCK) at += align(BLOCK - ((at + size) % BLOCK), SLOT);
    inode.offset = at;
    at += size + beside + (inode.chunks === undefined ? 0 : chunkArea(at + size, inode.chunks.length));
  }
  return { inodes, parents, time, size: at };
}

function prepare(inode: Inode, parents: Map<Inode, Inode>): void {
  if (inode.children === undefined) return;
  inode.size = directorySize(inode);
  inode.links = 2;
  // Which bytes they are is known once all inodes have their places.
  inode.inline = inode.size <= BLOCK / 2 && inode.xattrs === undefined ? new Uint8Array(inode.size) : undefined;
  for (const child of inode.children.values()) {
    if (child.children === undefined) continue;
    inode.links++;
    parents.set(child, inode);
  }
}

/** Large directories follow the inodes, in the same order. */
function placeDirectories({ inodes, size }: Placed, metaBlock: number): void {
  let block = metaBlock + align(size, BLOCK) / BLOCK;
  for (const inode of inodes) {
    if (inode.children === undefined || inode.inline !== undefined) continue;
    inode.address = block;
    block += align(inode.size, BLOCK) / BLOCK;
  }
}

function chunkArea(at: number, chunks: number): number {
  return align(at, CHUNK_ENTRY) - at + chunks * CHUNK_ENTRY;
}

async function writeInode(output: Output, inode: Inode, { time, parents }: Placed): Promise<void> {
  await output.write(encodeInode(inode, time));
  if (inode.xattrs !== undefined) await output.write(inode.xattrs);
  if (inode.chunks !== undefined) {
    await output.zeros(align(output.position, CHUNK_ENTRY) - output.position);
    const map = Buffer.alloc(inode.chunks.length * CHUNK_ENTRY);
    for (const [index, block] of inode.chunks.entries()) map.writeUInt32LE(block, index * CHUNK_ENTRY);
    await output.write(map);
  } else if (inode.inline !== undefined) {
    await output.write(
      inode.children === undefined ? inode.inline : encodeDirectory(inode, parents.get(inode) ?? inode),
    );
  }
}

/** Compact inodes have the superblock's time; directories keep room, as a lower layer may give them its attributes. */
function isCompact(inode: Inode, [seconds, nanoseconds]: Placed["time"]): boolean {
  return (
    inode.children === undefined &&
    inode.seconds === seconds &&
    inode.nanoseconds === nanoseconds &&
    inode.uid <= 0xffff &&
    inode.gid <= 0xffff &&
    inode.links <= 0xffff &&
    inode.size <= 0xffffffff
  );
}

function headSize(inode: Inode, time: Placed["time"]): number {
  return (isCompact(inode, time) ? COMPACT_SIZE : EXTENDED_SIZE) + (inode.xattrs?.length ?? 0);
}

function layoutOf(inode: Inode): number {
  if (inode.chunks !== undefined) return LAYOUT.chunked;
  return inode.inline === undefined || inode.inline.length === 0 ? LAYOUT.plain : LAYOUT.inline;
}

function unionOf(inode: Inode): number {
  const type = inode.mode & S_IFMT;
  if (type === S_IFCHR || type === S_IFBLK) return inode.address;
  if (inode.chunks !== undefined) return inode.chunkBits;
  return inode.address;
}

function encodeInode(inode: Inode, time: Placed["time"]): Buffer {
  const compact = isCompact(inode, time);
  const bytes = Buffer.alloc(compact ? COMPACT_SIZE : EXTENDED_SIZE);
  bytes.writeUInt16LE((compact ? 0 : 1) | (layoutOf(inode) << 1), 0);
  bytes.writeUInt16LE(xattrCount(inode.xattrs), 2);
  bytes.writeUInt16LE(inode.mode, 4);
  bytes.writeUInt32LE(unionOf(inode), 16);
  bytes.writeUInt32LE(inode.offset / SLOT, 20);
  if (compact) {
    bytes.writeUInt16LE(inode.links, 6);
    bytes.writeUInt32LE(inode.size, 8);
    bytes.writeUInt16LE(inode.uid, 24);
    bytes.writeUInt16LE(inode.gid, 26);
    return bytes;
  }
  bytes.writeBigUInt64LE(BigInt(inode.size), 8);
  bytes.writeUInt32LE(inode.uid, 24);
  bytes.writeUInt32LE(inode.gid, 28);
  bytes.writeBigInt64LE(BigInt(inode.seconds), 32);
  bytes.writeUInt32LE(inode.nanoseconds, 40);
  bytes.writeUInt32LE(inode.links, 44);
  return bytes;
}

function mostFrequentTime(inodes: readonly Inode[]): readonly [number, number] {
  const counts = new Map<string, { count: number; time: readonly [number, number] }>();
  let most = { count: 0, time: [0, 0] as readonly [number, number] };
  for (const { seconds, nanoseconds } of inodes) {
    const key = `${seconds}.${nanoseconds}`;
    const found = counts.get(key) ?? { count: 0, time: [seconds, nanoseconds] as const };
    found.count++;
    if (counts.size < TIMES_MAX) counts.set(key, found);
    if (found.count > most.count) most = found;
  }
  return most.time;
}

/** So many times are counted. */
const TIMES_MAX = 10_000;
