/** The guest's user space as a root file system in a file: read-only, and in the host's memory once for all machines. */
import { execFile } from "node:child_process";
import { access, mkdir, mkdtemp, rm, stat, symlink, truncate, writeFile } from "node:fs/promises";
import { dirname, join } from "node:path";
import { promisify } from "node:util";
import { VmError } from "../errors.ts";
import type { CpioEntry } from "./cpio.ts";

const MIB = 1 << 20;
/** An NVDIMM's size must be a multiple of what memory is mapped by (x86: 2 MiB). */
const ALIGNMENT = 2 * MIB;
const AGE = { uid: 0, gid: 0, mtime: 0n };

/** `path` must not exist. The same entries give the same bytes. */
export async function writeErofs(path: string, entries: readonly CpioEntry[]): Promise<void> {
  const { ErofsTree } = await import("@berth/image");
  const tree = await ErofsTree.create(path);
  try {
    for (const entry of entries) {
      const name = Buffer.from(entry.path);
      if (entry.kind === "directory") await tree.directory(name, entry.mode ?? 0o755, AGE);
      else if (entry.kind === "symlink") await tree.symlink(name, Buffer.from(entry.target), AGE);
      else if (entry.kind === "character") await tree.node(name, S_IFCHR | entry.mode, ...entry.device, AGE);
      else {
        await tree.file(name, entry.mode ?? 0o644, BigInt(entry.data.length), AGE);
        if (entry.data.length > 0) await tree.data(entry.data);
      }
    }
    await tree.end(false);
  } catch (error) {
    await tree.abort();
    throw error;
  }
  await truncate(path, align((await stat(path)).size));
}

const S_IFCHR = 0o020000;
const align = (size: number): number => Math.ceil(size / ALIGNMENT) * ALIGNMENT;

const MKFS = ["/usr/sbin/mkfs.ext4", "/sbin/mkfs.ext4"];

/** Undefined: there is none here. */
export async function mkfs(): Promise<string | undefined> {
  for (const path of MKFS)
    if (
      await access(path).then(
        () => true,
        () => false,
      )
    )
      return path;
  return undefined;
}

/** Of a file system without files: journal, inodes, bitmaps. */
const EXT4_ROOM = 12 * MIB;

/** By mkfs.ext4, from a directory with the same entries; nodes are left out, as devtmpfs is mounted over them. */
export async function writeExt4(path: string, entries: readonly CpioEntry[], program: string): Promise<void> {
  const stage = await mkdtemp(`${path}.tree-`);
  try {
    let size = EXT4_ROOM;
    for (const entry of entries) {
      const at = join(stage, entry.path);
      await mkdir(dirname(at), { recursive: true });
      if (entry.kind === "directory") await mkdir(at, { recursive: true, mode: entry.mode ?? 0o755 });
      else if (entry.kind === "symlink") await symlink(entry.target, at);
      else if (entry.kind === "file") {
        await writeFile(at, entry.data, { mode: entry.mode ?? 0o644 });
        size += entry.data.length + 4096;
      }
    }
    await writeFile(path, "");
    await truncate(path, align(size));
    // DAX takes blocks of a page. Its journal is for the mount options that Kata gives.
    const options = ["-q", "-F", "-b", "4096", "-m", "0", "-E", "root_owner=0:0,lazy_itable_init=0", "-d", stage, path];
    await promisify(execFile)(program, options);
  } catch (error) {
    throw new VmError("Missing", `${path}: ${(error as Error).message.trim()}`, { cause: error });
  } finally {
    await rm(stage, { recursive: true, force: true });
  }
}
