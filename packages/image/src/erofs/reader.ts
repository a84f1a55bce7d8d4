/**
 * Reads EROFS images as the writer makes them, without mounting them. For workers: it reads synchronously, and keeps a few
 * blocks.
 */
import { closeSync, openSync, readSync } from "node:fs";
import { ImageError } from "../errors.ts";
import {
  align,
  BLOCK,
  BLOCK_BITS,
  COMPACT_SIZE,
  decodeSuperBlock,
  DIRENT_SIZE,
  EXTENDED_SIZE,
  HOLE,
  LAYOUT,
  S_IFDIR,
  S_IFMT,
  SLOT,
  type SuperBlock,
} from "./format.ts";
import { decodeXattrs, xattrAreaSize } from "./xattrs.ts";

const CACHED_BLOCKS = 64;
const PIECE = 1 << 20;

export interface InodeInfo {
  readonly nid: number;
  readonly mode: number;
  readonly uid: number;
  readonly gid: number;
  /** Nanoseconds since the epoch. */
  readonly mtime: bigint;
  readonly links: number;
  readonly size: number;
  /** First block, device number or chunk size, by type and layout. */
  readonly union: number;
  readonly layout: number;
  /** Where its extended attributes are in the image, and how long. */
  readonly xattrsAt: number;
  readonly xattrsSize: number;
  readonly compact: boolean;
}

export class ErofsImage {
  readonly path: string;
  readonly superBlock: SuperBlock;
  readonly #fd: number;
  readonly #blocks = new Map<number, Buffer>();

  private constructor(path: string, fd: number, superBlock: SuperBlock) {
    this.path = path;
    this.#fd = fd;
    this.superBlock = superBlock;
  }

  /** Throws ImageError Internal where the file is no image of the writer's. */
  static open(path: string): ErofsImage {
    const fd = openSync(path, "r");
    try {
      const block = Buffer.alloc(BLOCK);
      const superBlock = readSync(fd, block, 0, BLOCK, 0) === BLOCK ? decodeSuperBlock(block) : undefined;
      if (superBlock === undefined) throw new ImageError("Internal", `${path} is not a whole EROFS image`);
      return new ErofsImage(path, fd, superBlock);
    } catch (error) {
      closeSync(fd);
      throw error;
    }
  }

  close(): void {
    closeSync(this.#fd);
  }

  get root(): InodeInfo {
    return this.inode(this.superBlock.rootNid);
  }

  /** Where file contents end, and inodes begin. */
  get dataEnd(): number {
    return this.superBlock.metaBlock * BLOCK;
  }

  /** Offset of an inode in the image. */
  offsetOf(nid: number): number {
    return this.dataEnd + nid * SLOT;
  }

  inode(nid: number): InodeInfo {
    const at = this.offsetOf(nid);
    const head = this.#bytes(at, COMPACT_SIZE);
    const format = head.readUInt16LE(0);
    const compact = (format & 1) === 0;
    const bytes = compact ? head : this.#bytes(at, EXTENDED_SIZE);
    const { time, timeNs } = this.superBlock;
    const seconds = compact ? BigInt(time) : bytes.readBigInt64LE(32);
    const xattrsAt = at + (compact ? COMPACT_SIZE : EXTENDED_SIZE);
    return {
      nid,
      compact,
      mode: bytes.readUInt16LE(4),
      uid: compact ? bytes.readUInt16LE(24) : bytes.readUInt32LE(24),
      gid: compact ? bytes.readUInt16LE(26) : bytes.readUInt32LE(28),
      mtime: seconds * 1_000_000_000n + BigInt(compact ? timeNs : bytes.readUInt32LE(40)),
      links: compact ? bytes.readUInt16LE(6) : bytes.readUInt32LE(44),
      size: compact ? bytes.readUInt32LE(8) : Number(bytes.readBigUInt64LE(8)),
      union: bytes.readUInt32LE(16),
      layout: (format >> 1) & 7,
      xattrsAt,
      xattrsSize: xattrAreaSize(bytes.readUInt16LE(2)),
    };
  }

  xattrs(inode: InodeInfo): Map<string, Uint8Array> {
    return inode.xattrsSize === 0 ? new Map() : decodeXattrs(this.#bytes(inode.xattrsAt, inode.xattrsSize));
  }

  /** The inode by a name of one character per byte; undefined if the directory has none. */
  lookup(directory: InodeInfo, name: string): InodeInfo | undefined {
    let low = 0;
    let high = Math.ceil(directory.size / BLOCK) - 1;
    // The first names of blocks are in order: the last block that does not begin after the name is the one.
    while (low < high) {
      const middle = Math.ceil((low + high) / 2);
      const first = this.#entries(directory, middle)[0];
      if (first !== undefined && first.name <= name) low = middle;
      else high = middle - 1;
    }
    const found = this.#entries(directory, low).find((entry) => entry.name === name);
    return found === undefined ? undefined : this.inode(found.nid);
  }

  /** Without "." and "..". */
  list(directory: InodeInfo): { name: string; nid: number }[] {
    const entries: { name: string; nid: number }[] = [];
    for (let block = 0; block * BLOCK < directory.size; block++) entries.push(...this.#entries(directory, block));
    return entries.filter(({ name }) => name !== "." && name !== "..");
  }

  /** By a canonical path; symlinks are not followed. */
  find(path: string): InodeInfo | undefined {
    let at: InodeInfo | undefined = this.root;
    for (const step of path === "" ? [] : path.split("/")) {
      if (at === undefined || (at.mode & S_IFMT) !== S_IFDIR) return undefined;
      at = this.lookup(at, step);
    }
    return at;
  }

  /** A small file or a symlink's target, whole. */
  content(inode: InodeInfo): Buffer {
    const parts: Uint8Array[] = [];
    for (const piece of this.pieces(inode)) parts.push(typeof piece === "number" ? new Uint8Array(piece) : piece);
    return Buffer.concat(parts);
  }

  /** A file's content in order: bytes, or the length of a hole. */
  *pieces(inode: InodeInfo): Generator<Uint8Array | number, void, undefined> {
    if (inode.layout === LAYOUT.chunked) return yield* this.#chunks(inode);
    const start = inode.layout === LAYOUT.inline ? inode.xattrsAt + inode.xattrsSize : inode.union * BLOCK;
    yield* this.#range(start, inode.size);
  }

  chunkMap(inode: InodeInfo): Uint32Array {
    const count = Math.ceil(inode.size / 2 ** (BLOCK_BITS + (inode.union & 0x1f)));
    const bytes = this.#bytes(align(inode.xattrsAt + inode.xattrsSize, 4), count * 4);
    return Uint32Array.from({ length: count }, (_, index) => bytes.readUInt32LE(index * 4));
  }

  *#chunks(inode: InodeInfo): Generator<Uint8Array | number, void, undefined> {
    const size = 2 ** (BLOCK_BITS + (inode.union & 0x1f));
    let left = inode.size;
    for (const block of this.chunkMap(inode)) {
      const length = Math.min(size, left);
      left -= length;
      if (block === HOLE) yield length;
      else yield* this.#range(block * BLOCK, length);
    }
  }

  *#range(start: number, length: number): Generator<Uint8Array, void, undefined> {
    for (let done = 0; done < length;) {
      const size = Math.min(PIECE, length - done);
      yield this.#read(start + done, size);
      done += size;
    }
  }

  #entries(directory: InodeInfo, block: number): { name: string; nid: number }[] {
    const size = Math.min(BLOCK, directory.size - block * BLOCK);
    const start =
      directory.layout === LAYOUT.inline ? directory.xattrsAt + directory.xattrsSize : directory.union * BLOCK;
    const bytes = this.#bytes(start + block * BLOCK, size);
    const count = bytes.readUInt16LE(8) / DIRENT_SIZE;
    return Array.from({ length: count }, (_, index) => {
      const at = index * DIRENT_SIZE;
      const name = bytes.readUInt16LE(at + 8);
      const end = index + 1 < count ? bytes.readUInt16LE(at + DIRENT_SIZE + 8) : size;
      const text = bytes.toString("latin1", name, end);
      const nul = text.indexOf("\0");
      return { name: nul < 0 ? text : text.slice(0, nul), nid: Number(bytes.readBigUInt64LE(at)) };
    });
  }

  /** Through the cache: for what is small. */
  #bytes(offset: number, length: number): Buffer {
    const first = Math.floor(offset / BLOCK);
    const last = Math.floor((offset + length - 1) / BLOCK);
    if (first === last) return this.#block(first).subarray(offset % BLOCK, (offset % BLOCK) + length);
    return this.#read(offset, length);
  }

  #block(number: number): Buffer {
    let block = this.#blocks.get(number);
    if (block === undefined) {
      block = this.#read(number * BLOCK, BLOCK);
      const [oldest] = this.#blocks.keys();
      if (this.#blocks.size >= CACHED_BLOCKS && oldest !== undefined) this.#blocks.delete(oldest);
      this.#blocks.set(number, block);
    }
    return block;
  }

  #read(offset: number, length: number): Buffer {
    const bytes = Buffer.alloc(length);
    let read = 0;
    while (read < length) {
      const size = readSync(this.#fd, bytes, read, length - read, offset + read);
      if (size === 0) throw new ImageError("Internal", `${this.path} ends at byte ${offset + read}`);
      read += size;
    }
    return bytes;
  }
}
