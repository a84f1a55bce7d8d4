/** What is in one layer, read without mounting it. */
import type { BigIntStats } from "node:fs";
import { constants, lstat, open, readlink } from "node:fs/promises";
import { join } from "node:path";
import { decodeDevice, S_IFBLK, S_IFCHR, S_IFMT } from "../erofs/format.ts";
import { ErofsImage, type InodeInfo } from "../erofs/reader.ts";
import { toBytes, toName } from "../layers/paths.ts";
import type { Seal } from "./seal.ts";

/** Where a layer is and what it is on disk: data that can cross a thread. */
export interface LayerRef {
  readonly format: LayerFormatName;
  /** snapshots/<id>. */
  readonly home: string;
  /** Directories that hide what is beneath: names as in layers/paths.ts. */
  readonly opaque: readonly string[];
  /** What its image is verified by. */
  readonly seal?: Seal | undefined;
}

export type LayerFormatName = "directory" | "erofs";

/** The directory of a layer that was unpacked into one, and where an image of a layer is mounted. */
export const fsOf = (home: string): string => join(home, "fs");
export const imageOf = (home: string): string => join(home, "layer.erofs");

export interface Entry {
  /** With the type's bits. */
  readonly mode: number;
  readonly uid: number;
  readonly gid: number;
  /** Nanoseconds since the epoch. */
  readonly mtime: bigint;
  readonly size: number;
  readonly major: number;
  readonly minor: number;
}

/** Paths are canonical; no symlink is followed. */
export interface LayerFiles {
  /** Undefined: there is nothing, or its parent is no directory. */
  entry(path: string): Promise<Entry | undefined>;
  /** Of a symlink. */
  target(path: string): Promise<string>;
  /** A file's content in order: bytes, or the length of a hole. */
  content(path: string): AsyncIterable<Uint8Array | number>;
  /** A directory's are not read: Node has no call for it. */
  xattrs(path: string): ReadonlyMap<string, Uint8Array>;
  close(): void;
}

export function openLayer({ format, home }: Pick<LayerRef, "format" | "home">): LayerFiles {
  return format === "erofs" ? new ImageFiles(imageOf(home)) : new DirectoryFiles(fsOf(home));
}

const CHUNK = 256 * 1024;
const NONE: ReadonlyMap<string, Uint8Array> = new Map();

class DirectoryFiles implements LayerFiles {
  readonly #root: string;

  constructor(root: string) {
    this.#root = root;
  }

  async entry(path: string): Promise<Entry | undefined> {
    try {
      return fromStat(await lstat(this.#host(path), { bigint: true }));
    } catch (error) {
      const { code } = error as { code?: string };
      if (code === "ENOENT" || code === "ENOTDIR") return undefined;
      throw error;
    }
  }

  async target(path: string): Promise<string> {
    return toName(await readlink(this.#host(path), { encoding: "buffer" }));
  }

  async *content(path: string): AsyncGenerator<Uint8Array, void, undefined> {
    const file = await open(this.#host(path), constants.O_RDONLY | constants.O_NOFOLLOW);
    try {
      for await (const chunk of file.createReadStream({ highWaterMark: CHUNK, autoClose: false }))
        yield chunk as Uint8Array;
    } finally {
      await file.close();
    }
  }

  xattrs(): ReadonlyMap<string, Uint8Array> {
    return NONE;
  }

  close(): void {}

  #host(path: string): Buffer {
    return Buffer.concat([Buffer.from(this.#root), toBytes(path === "" ? "" : `/${path}`)]);
  }
}

class ImageFiles implements LayerFiles {
  readonly #image: ErofsImage;

  constructor(path: string) {
    this.#image = ErofsImage.open(path);
  }

  async entry(path: string): Promise<Entry | undefined> {
    const found = this.#image.find(path);
    return await Promise.resolve(found === undefined ? undefined : entryOf(found));
  }

  async target(path: string): Promise<string> {
    return await Promise.resolve(toName(this.#image.content(this.#found(path))));
  }

  async *content(path: string): AsyncGenerator<Uint8Array | number, void, undefined> {
    yield* this.#image.pieces(this.#found(path));
    await Promise.resolve();
  }

  xattrs(path: string): ReadonlyMap<string, Uint8Array> {
    return this.#image.xattrs(this.#found(path));
  }

  close(): void {
    this.#image.close();
  }

  #found(path: string): InodeInfo {
    const found = this.#image.find(path);
    if (found === undefined) throw new Error(`${this.#image.path} has no "${path}"`);
    return found;
  }
}

export function entryOf(inode: InodeInfo): Entry {
  const type = inode.mode & S_IFMT;
  const device = type === S_IFCHR || type === S_IFBLK ? decodeDevice(inode.union) : { major: 0, minor: 0 };
  return { mode: inode.mode, uid: inode.uid, gid: inode.gid, mtime: inode.mtime, size: inode.size, ...device };
}

function fromStat(stat: BigIntStats): Entry {
  return {
    mode: Number(stat.mode),
    uid: Number(stat.uid),
    gid: Number(stat.gid),
    mtime: stat.mtimeNs,
    size: Number(stat.size),
    major: major(stat.rdev),
    minor: minor(stat.rdev),
  };
}

/** glibc's gnu_dev_major and gnu_dev_minor, in which stat(2) reports device numbers. */
function major(device: bigint): number {
  return Number(((device >> 8n) & 0xfffn) | ((device >> 32n) & 0xfffff000n));
}

function minor(device: bigint): number {
  return Number((device & 0xffn) | ((device >> 12n) & 0xffffff00n));
}
