/** An image's inodes while it is written: what is in them, and where they will be. */
import type { TreeMeta } from "@berth/kernel";
import { S_IFDIR, S_IFMT } from "./format.ts";
import { encodeXattrs } from "./xattrs.ts";

const SECOND = 1_000_000_000n;

export class Inode {
  /** With the type's bits. */
  mode: number;
  uid: number;
  gid: number;
  /** Seconds, rounded down, and nanoseconds since the epoch. */
  seconds: number;
  nanoseconds: number;
  links = 1;
  size = 0;
  /** Of a file's first block, or the number of a device. */
  address = 0;
  xattrs: Buffer | undefined;
  /** A short file's content, a symlink's target. */
  inline: Uint8Array | undefined;
  /** Block addresses of a sparse file's chunks of 2 ** chunkBits blocks. */
  chunks: Uint32Array | undefined;
  chunkBits = 0;
  children: Map<string, Inode> | undefined;
  /** Offset from the start of the inode area; -1: not placed yet. */
  offset = -1;

  constructor(mode: number, meta: TreeMeta) {
    this.mode = mode;
    this.uid = meta.uid;
    this.gid = meta.gid;
    const nanoseconds = ((meta.mtime % SECOND) + SECOND) % SECOND;
    this.nanoseconds = Number(nanoseconds);
    this.seconds = Number((meta.mtime - nanoseconds) / SECOND);
    this.xattrs = encodeXattrs(meta.xattrs);
    if ((mode & S_IFMT) === S_IFDIR) this.children = new Map();
  }

  /** Gives a directory other attributes; what is in it stays. */
  become(other: Inode): void {
    this.mode = other.mode;
    this.uid = other.uid;
    this.gid = other.gid;
    this.seconds = other.seconds;
    this.nanoseconds = other.nanoseconds;
    this.xattrs = other.xattrs;
  }
}

/** Every inode once, parents before children, in the order of names. */
export function* inodesOf(root: Inode): Generator<Inode, void, undefined> {
  const seen = new Set<Inode>();
  const pending = [root];
  for (let inode = pending.pop(); inode !== undefined; inode = pending.pop()) {
    if (inode.links > 1 && inode.children === undefined) {
      if (seen.has(inode)) continue;
      seen.add(inode);
    }
    yield inode;
    if (inode.children === undefined) continue;
    const children = sortedNames(inode.children).map((name) => inode.children?.get(name) as Inode);
    for (const child of children.reverse()) pending.push(child);
  }
}

/** Names are of one character per byte: the order of strings is the order of bytes. */
export function sortedNames(children: ReadonlyMap<string, unknown>): string[] {
  return [...children.keys()].sort((a, b) => (a < b ? -1 : 1));
}
