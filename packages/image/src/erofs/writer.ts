/**
 * Writes an EROFS image as a layer's entries come: file contents at once, one after the other; inodes and directories
 * behind them at the end, and the superblock last. What it needs in memory is the names and inodes.
 *
 * The same calls make the same bytes, so that an image can be verified by making it again.
 */
import type { TreeMeta, TreeWriter } from "@berth/kernel";
import { ImageError } from "../errors.ts";
import { toName } from "../layers/paths.ts";
import {
  BLOCK,
  BLOCK_BITS,
  BLOCKS_MAX,
  encodeDevice,
  encodeSuperBlock,
  HOLE,
  S_IFDIR,
  S_IFLNK,
  S_IFMT,
  S_IFREG,
} from "./format.ts";
import { Inode } from "./model.ts";
import { Output } from "./output.ts";
import { writeMetadata } from "./metadata.ts";

/** A file of at most so many bytes lies beside its inode: no block of its own, no seek to it. */
const INLINE_MAX = 1024;
/** Of all inline contents together, as they are in memory until the end. */
const INLINE_TOTAL = 8 << 20;
/** A sparse file is cut into at most so many chunks. */
const CHUNKS_MAX = 16_384;
/** The format has five bits for the size of a chunk, as a power of two of blocks. */
const CHUNK_BITS_MAX = 31;
const ROOT: TreeMeta = { uid: 0, gid: 0, mtime: 0n };
const NAME_MAX = 255;

interface OpenFile {
  readonly inode: Inode;
  readonly inline: Uint8Array | undefined;
  position: number;
}

export class ErofsTree implements TreeWriter {
  readonly #output: Output;
  readonly #path: string;
  readonly #root: Inode;
  #file: OpenFile | undefined;
  #inlined = 0;
  #closed = false;
  /** The directory that the last path was in. */
  #last: { path: string; directory: Inode } | undefined;

  private constructor(output: Output, path: string, root: Inode) {
    this.#output = output;
    this.#path = path;
    this.#root = root;
  }

  /** Makes `path`, which must not exist. */
  static async create(path: string): Promise<ErofsTree> {
    const output = await Output.open(path);
    await output.zeros(BLOCK);
    return new ErofsTree(output, path, new Inode(S_IFDIR | 0o755, ROOT));
  }

  /** Goes on with an image that was ended: `root` is what it holds, `dataEnd` where its file contents end. */
  static async resume(path: string, root: Inode, dataEnd: number): Promise<ErofsTree> {
    return new ErofsTree(await Output.open(path, { at: dataEnd }), path, root);
  }

  async directory(path: Uint8Array, mode: number, meta: TreeMeta): Promise<void> {
    const made = this.#inode(S_IFDIR | (mode & 0o7777), meta, path);
    const name = toName(path);
    if (name === ".") return this.#root.become(made);
    const { directory, base } = this.#place(name);
    const before = directory.children?.get(base);
    if (before?.children === undefined) this.#put(directory, base, made);
    else before.become(made);
    return await Promise.resolve();
  }

  async file(path: Uint8Array, mode: number, size: bigint, meta: TreeMeta): Promise<void> {
    if (size > BigInt(Number.MAX_SAFE_INTEGER))
      throw new ImageError("LimitExceeded", `"${toName(path)}" says it has ${size} bytes (limit erofs.file)`);
    const inode = this.#inode(S_IFREG | (mode & 0o7777), meta, path);
    inode.size = Number(size);
    const { directory, base } = this.#place(toName(path));
    this.#put(directory, base, inode);
    if (inode.size === 0) return;
    const inline = inode.size <= INLINE_MAX && this.#inlined + inode.size <= INLINE_TOTAL;
    if (inline) this.#inlined += inode.size;
    else await this.#output.toBlock();
    inode.address = inline ? 0 : this.#block();
    this.#file = { inode, inline: inline ? new Uint8Array(inode.size) : undefined, position: 0 };
  }

  async data(bytes: Uint8Array): Promise<void> {
    const file = this.#open();
    if (file.inline !== undefined) file.inline.set(bytes, file.position);
    else if (file.inode.chunks === undefined) await this.#output.write(bytes);
    else return await this.#chunkedData(file, bytes);
    this.#advance(file, bytes.length);
  }

  async hole(length: bigint): Promise<void> {
    const file = this.#open();
    const size = Number(length);
    if (file.inline === undefined) {
      if (file.inode.chunks === undefined && size >= BLOCK) this.#cut(file);
      await (file.inode.chunks === undefined ? this.#output.zeros(size) : this.#chunkedHole(file, size));
    }
    this.#advance(file, size);
  }

  async symlink(path: Uint8Array, target: Uint8Array, meta: TreeMeta): Promise<void> {
    if (target.length === 0) throw new ImageError("InvalidImage", `symlink "${toName(path)}" to nothing`);
    const inode = this.#inode(S_IFLNK | 0o777, meta, path);
    inode.size = target.length;
    const { directory, base } = this.#place(toName(path));
    this.#put(directory, base, inode);
    if (target.length <= INLINE_MAX) {
      inode.inline = Uint8Array.from(target);
      return;
    }
    await this.#output.toBlock();
    inode.address = this.#block();
    await this.#output.write(target);
  }

  async hardlink(path: Uint8Array, target: Uint8Array): Promise<void> {
    const from = this.#place(toName(target));
    const inode = from.directory.children?.get(from.base);
    if (inode === undefined)
      throw new ImageError("InvalidImage", `hard link to "${toName(target)}", which is not there`);
    inode.links++;
    const { directory, base } = this.#place(toName(path));
    this.#put(directory, base, inode);
    return await Promise.resolve();
  }

  async node(path: Uint8Array, mode: number, major: number, minor: number, meta: TreeMeta): Promise<void> {
    if (major > 0xfff || minor > 0xfffff)
      throw new ImageError("InvalidImage", `"${toName(path)}" is device ${major}:${minor}, which Linux does not have`);
    const inode = this.#inode(mode, meta, path);
    inode.address = encodeDevice(major, minor);
    const { directory, base } = this.#place(toName(path));
    this.#put(directory, base, inode);
    return await Promise.resolve();
  }

  /** Whether there is an entry at the canonical path. */
  async has(path: string): Promise<boolean> {
    let at: Inode | undefined = this.#root;
    for (const step of path.split("/")) at = at?.children?.get(step);
    return await Promise.resolve(at !== undefined);
  }

  async end(sync: boolean): Promise<void> {
    if (this.#file !== undefined) throw new ImageError("Internal", `${this.#path}: a file is not filled at the end`);
    await this.#output.toBlock();
    const superBlock = await writeMetadata(this.#output, this.#root);
    if (superBlock.blocks > BLOCKS_MAX)
      throw new ImageError("LimitExceeded", "the layer is larger than 16 TiB (limit erofs.image)");
    await this.#output.end(encodeSuperBlock(superBlock), sync);
    await this.#close();
  }

  async abort(): Promise<void> {
    await this.#close();
  }

  async #close(): Promise<void> {
    if (this.#closed) return;
    this.#closed = true;
    await this.#output.close();
  }

  #inode(mode: number, meta: TreeMeta, path: Uint8Array): Inode {
    try {
      return new Inode(mode, meta);
    } catch (error) {
      if (!(error instanceof RangeError)) throw error;
      throw new ImageError("LimitExceeded", `"${toName(path)}": ${error.message} (limit erofs.xattrs)`, {
        cause: error,
      });
    }
  }

  #place(path: string): { directory: Inode; base: string } {
    const slash = path.lastIndexOf("/");
    const base = path.slice(slash + 1);
    if (base.length > NAME_MAX)
      throw new ImageError(
        "InvalidImage",
        `a name of ${base.length} bytes in "${path.slice(0, 80)}…" (at most ${NAME_MAX})`,
      );
    const parent = slash < 0 ? "" : path.slice(0, slash);
    if (this.#last?.path === parent) return { directory: this.#last.directory, base };
    let directory = this.#root;
    for (const step of parent === "" ? [] : parent.split("/")) {
      const next = directory.children?.get(step);
      if (next?.children === undefined) throw new ImageError("Internal", `"${parent}" is no directory of the layer`);
      directory = next;
    }
    this.#last = { path: parent, directory };
    return { directory, base };
  }

  #put(directory: Inode, base: string, inode: Inode): void {
    const before = directory.children?.get(base);
    directory.children?.set(base, inode);
    if (before === undefined) return;
    this.#last = undefined;
    drop(before);
  }

  #open(): OpenFile {
    if (this.#file === undefined) throw new ImageError("Internal", `${this.#path}: data without a file`);
    return this.#file;
  }

  #block(): number {
    const block = this.#output.position / BLOCK;
    if (block > BLOCKS_MAX)
      throw new ImageError("LimitExceeded", "the layer is larger than 16 TiB (limit erofs.image)");
    return block;
  }

  #advance(file: OpenFile, length: number): void {
    file.position += length;
    if (file.position < file.inode.size) return;
    if (file.inline !== undefined) file.inode.inline = file.inline;
    this.#file = undefined;
  }

  /** From here on the file is kept in chunks, as it has a hole. */
  #cut({ inode, position }: OpenFile): void {
    let bits = 0;
    while (inode.size / 2 ** (BLOCK_BITS + bits) > CHUNKS_MAX && bits < CHUNK_BITS_MAX) bits++;
    inode.chunkBits = bits;
    const size = 2 ** (BLOCK_BITS + bits);
    inode.chunks = new Uint32Array(Math.ceil(inode.size / size)).fill(HOLE);
    for (let index = 0; index * size < position; index++) inode.chunks[index] = inode.address + index * 2 ** bits;
  }

  async #chunkedData(file: OpenFile, bytes: Uint8Array): Promise<void> {
    const size = 2 ** (BLOCK_BITS + file.inode.chunkBits);
    for (let at = 0; at < bytes.length;) {
      const within = file.position % size;
      await this.#startChunk(file, Math.floor(file.position / size), within);
      const piece = bytes.subarray(at, at + Math.min(bytes.length - at, size - within));
      await this.#output.write(piece);
      at += piece.length;
      this.#advance(file, piece.length);
    }
  }

  async #startChunk({ inode }: OpenFile, index: number, within: number): Promise<void> {
    const chunks = inode.chunks as Uint32Array;
    if (chunks[index] !== HOLE) return;
    await this.#output.toBlock();
    chunks[index] = this.#block();
    await this.#output.zeros(within);
  }

  /** What of a hole lies in chunks that hold data takes space in the image, as zeros. */
  async #chunkedHole({ inode, position }: OpenFile, length: number): Promise<void> {
    const size = 2 ** (BLOCK_BITS + inode.chunkBits);
    const within = position % size;
    if (within === 0 || inode.chunks?.[Math.floor(position / size)] === HOLE) return;
    await this.#output.zeros(Math.min(length, size - within));
  }
}

/** An entry that was replaced: what it was linked to by other names stays. */
function drop(inode: Inode): void {
  inode.links--;
  if (inode.children === undefined || (inode.mode & S_IFMT) !== S_IFDIR) return;
  for (const child of inode.children.values()) drop(child);
}
