/** A small directory or file of the host, as it is copied into a guest: what is in it, and what has changed since. */
import { constants } from "node:fs";
import { lstat, open, readdir, readlink } from "node:fs/promises";
import { join } from "node:path";
import { VmError } from "../errors.ts";

export interface TreeEntry {
  readonly kind: "directory" | "file" | "symlink";
  readonly mode: number;
  readonly uid: number;
  readonly gid: number;
  /** Nanoseconds since the epoch. */
  readonly mtime: bigint;
  readonly size: number;
  readonly inode: bigint;
  /** Of a symlink. */
  readonly target: string;
}

/** By path below the root, whose own is "."; parents before what is in them. */
export type Tree = ReadonlyMap<string, TreeEntry>;

/** What a copied volume may hold: as much as a ConfigMap or Secret can (1 MiB), and several of them projected into one. */
export const TREE_BYTES = 8 << 20;
export const TREE_ENTRIES = 1024;

/** Rejects with VmError Unsupported where it is more than that, or has what is no file, directory or symlink. */
export async function readTree(root: string): Promise<Tree> {
  const found = new Map<string, TreeEntry>();
  let bytes = 0;
  const add = async (path: string): Promise<void> => {
    const entry = await entryAt(root, path);
    if (!entry) return;
    found.set(path, entry);
    bytes += entry.kind === "file" ? entry.size : 0;
    if (bytes > TREE_BYTES || found.size > TREE_ENTRIES)
      throw new VmError(
        "Unsupported",
        `${root}: more than ${TREE_BYTES >> 20} MiB or ${TREE_ENTRIES} files cannot be copied into a machine; share it by shared_fs = "virtio-fs"`,
      );
    if (entry.kind === "directory")
      for (const name of (await namesIn(join(root, path))).sort()) await add(path === "." ? name : join(path, name));
  };
  await add(".");
  return found;
}

/** What vanishes meanwhile is left out: its change is told of. */
async function namesIn(directory: string): Promise<string[]> {
  return await readdir(directory).catch(orNothing([]));
}

const orNothing =
  <T>(nothing: T) =>
  (error: NodeJS.ErrnoException): T => {
    if (error.code === "ENOENT" || error.code === "ENOTDIR") return nothing;
    throw error;
  };

async function entryAt(root: string, path: string): Promise<TreeEntry | undefined> {
  const at = join(root, path);
  const about = await lstat(at, { bigint: true }).catch(orNothing(undefined));
  if (!about) return undefined;
  const kind = about.isDirectory()
    ? "directory"
    : about.isFile()
      ? "file"
      : about.isSymbolicLink()
        ? "symlink"
        : undefined;
  if (kind === undefined)
    throw new VmError("Unsupported", `${at}: sockets, pipes and devices cannot be copied into a machine`);
  return {
    kind,
    mode: Number(about.mode & 0o7777n),
    uid: Number(about.uid),
    gid: Number(about.gid),
    mtime: about.mtimeNs,
    size: Number(about.size),
    inode: about.ino,
    target: kind === "symlink" ? await readlink(at) : "",
  };
}

/** At most so many bytes; undefined: it is gone. No symlink is followed. */
export async function readFileOf(path: string, limit = TREE_BYTES): Promise<Buffer | undefined> {
  const file = await open(path, constants.O_RDONLY | constants.O_NOFOLLOW | constants.O_NONBLOCK).catch(
    orNothing(undefined),
  );
  if (!file) return undefined;
  try {
    const buffer = Buffer.alloc(Math.min(limit, (await file.stat()).size) + 1);
    let at = 0;
    for (;;) {
      const { bytesRead } = await file.read(buffer, at, buffer.length - at, at);
      at += bytesRead;
      if (bytesRead === 0 || at === buffer.length) return buffer.subarray(0, Math.min(at, limit));
    }
  } finally {
    await file.close();
  }
}

export interface Changes {
  /** Paths that are new, or whose attributes or content are others. */
  readonly put: readonly string[];
  /** Paths that are gone, deepest first. */
  readonly gone: readonly string[];
}

export function changesOf(before: Tree, now: Tree): Changes {
  const put = [...now].filter(([path, entry]) => !isSame(before.get(path), entry)).map(([path]) => path);
  const gone = [...before.keys()].filter((path) => !now.has(path) || now.get(path)?.kind !== before.get(path)?.kind);
  return { put, gone: gone.toReversed() };
}

const isSame = (a: TreeEntry | undefined, b: TreeEntry): boolean =>
  a !== undefined &&
  a.kind === b.kind &&
  a.mode === b.mode &&
  a.uid === b.uid &&
  a.gid === b.gid &&
  // A directory's time and size change with what is in it.
  (b.kind === "directory" ||
    (a.inode === b.inode && a.mtime === b.mtime && a.size === b.size && a.target === b.target));
