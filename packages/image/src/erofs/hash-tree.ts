/**
 * dm-verity's hash tree of an image (kernel, Documentation/admin-guide/device-mapper/verity.rst): version 1, SHA-256, blocks of
 * 4096, no salt. It follows the image in the same file, so that one loop device shows both; what reads the image ends before it.
 *
 * The same image makes the same tree. It takes a 128th of the image in memory.
 */
import { hash } from "node:crypto";
import { type FileHandle, open } from "node:fs/promises";
import { ImageError } from "../errors.ts";
import { align, BLOCK, decodeSuperBlock } from "./format.ts";

const DIGEST = 32;
const PER_BLOCK = BLOCK / DIGEST;
/** Read at a time: 4 MiB make 8 blocks of digests. */
const PIECE = 1024;

export interface HashTree {
  /** In hexadecimal. */
  readonly root: string;
  /** Of the image, which the tree follows. */
  readonly blocks: number;
}

interface Region {
  /** First block. */
  readonly at: number;
  readonly blocks: number;
}

/** Writes the tree behind the image, in place of one that is there. */
export async function appendHashTree(path: string): Promise<HashTree> {
  const file = await open(path, "r+");
  try {
    const blocks = await imageBlocks(file, path);
    const levels = levelsAbove(blocks);
    const end = (levels[0]?.at ?? blocks) + (levels[0]?.blocks ?? 0);
    await file.truncate(blocks * BLOCK);
    await file.truncate(end * BLOCK);
    return { root: await build(file, blocks, levels, true), blocks };
  } finally {
    await file.close();
  }
}

/** What the root of the image's tree is by its content now, whatever the tree in the file says. Rejects with EIO where the disk cannot read it. */
export async function hashImage(path: string): Promise<HashTree> {
  const file = await open(path, "r");
  try {
    const blocks = await imageBlocks(file, path);
    return { root: await build(file, blocks, levelsAbove(blocks), false), blocks };
  } finally {
    await file.close();
  }
}

async function imageBlocks(file: FileHandle, path: string): Promise<number> {
  const block = Buffer.alloc(BLOCK);
  const { bytesRead } = await file.read(block, 0, BLOCK, 0);
  const superBlock = bytesRead === BLOCK ? decodeSuperBlock(block) : undefined;
  if (superBlock === undefined) throw new ImageError("Internal", `${path} is not a whole EROFS image`);
  return superBlock.blocks;
}

/** Lowest first; in the file the highest comes first. A single block has no level: its digest is the root. */
function levelsAbove(blocks: number): Region[] {
  const sizes: number[] = [];
  for (let size = blocks; size > 1;) {
    size = Math.ceil(size / PER_BLOCK);
    sizes.push(size);
  }
  const levels: Region[] = [];
  let at = blocks;
  for (const size of sizes.toReversed()) {
    levels.unshift({ at, blocks: size });
    at += size;
  }
  return levels;
}

async function build(file: FileHandle, blocks: number, levels: readonly Region[], write: boolean): Promise<string> {
  let digests: Buffer | undefined;
  for (const level of levels) {
    digests = digests === undefined ? await digestsOf(file, blocks) : digestsIn(digests);
    if (write) await writeAll(file, digests, level.at * BLOCK);
  }
  return hash("sha256", digests ?? (await readBlocks(file, 0, 1)), "hex");
}

/** Padded to whole blocks. */
async function digestsOf(file: FileHandle, blocks: number): Promise<Buffer> {
  const result = Buffer.alloc(align(blocks * DIGEST, BLOCK));
  for (let done = 0; done < blocks; done += PIECE) {
    const piece = await readBlocks(file, done, Math.min(PIECE, blocks - done));
    digestsIn(piece).copy(result, done * DIGEST, 0, (piece.length / BLOCK) * DIGEST);
  }
  return result;
}

function digestsIn(bytes: Buffer): Buffer {
  const count = bytes.length / BLOCK;
  const result = Buffer.alloc(align(count * DIGEST, BLOCK));
  for (let index = 0; index < count; index++)
    hash("sha256", bytes.subarray(index * BLOCK, (index + 1) * BLOCK), "buffer").copy(result, index * DIGEST);
  return result;
}

async function readBlocks(file: FileHandle, at: number, count: number): Promise<Buffer> {
  const bytes = Buffer.alloc(count * BLOCK);
  for (let filled = 0; filled < bytes.length;) {
    const { bytesRead } = await file.read(bytes, filled, bytes.length - filled, at * BLOCK + filled);
    if (bytesRead === 0) break;
    filled += bytesRead;
  }
  return bytes;
}

async function writeAll(file: FileHandle, bytes: Buffer, position: number): Promise<void> {
  for (let at = 0; at < bytes.length;)
    at += (await file.write(bytes, at, bytes.length - at, position + at)).bytesWritten;
}
