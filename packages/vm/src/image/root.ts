/** The guest's user space as a root file system in a file: read-only, and in the host's memory once for all machines. */
import { execFile } from "node:child_process";
import { access, mkdir, mkdtemp, readFile, rm, symlink, truncate, writeFile } from "node:fs/promises";
import { dirname, join } from "node:path";
import { promisify } from "node:util";
import { VmError } from "../errors.ts";
import type { CpioEntry } from "./cpio.ts";
import { nvdimmImage } from "./nvdimm.ts";
import { verityOf } from "./verity.ts";

const MIB = 1 << 20;
const AGE = { uid: 0, gid: 0, mtime: 0n };

/** An image with a file system of these entries, which `write` makes at a path that does not exist. Answers its kernel_verity_params. */
async function writeImage(path: string, write: (path: string) => Promise<void>): Promise<string> {
  const plain = `${path}.plain`;
  try {
    await write(plain);
    const fileSystem = wholePages(await readFile(plain));
    const { tree, parameters } = verityOf(fileSystem);
    await writeFile(path, nvdimmImage(fileSystem, tree));
    return parameters;
  } finally {
    await rm(plain, { force: true });
  }
}

const PAGE = 4096;

const wholePages = (data: Buffer): Buffer => Buffer.concat([data, Buffer.alloc((PAGE - (data.length % PAGE)) % PAGE)]);

/** The same entries give the same bytes. */
export const writeErofs = (path: string, entries: readonly CpioEntry[]): Promise<string> =>
  writeImage(path, (plain) => erofs(plain, entries));

async function erofs(path: string, entries: readonly CpioEntry[]): Promise<void> {
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
}

const S_IFCHR = 0o020000;

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
export const writeExt4 = (path: string, entries: readonly CpioEntry[], program: string): Promise<string> =>
  writeImage(path, (plain) => ext4(plain, entries, program));

async function ext4(path: string, entries: readonly CpioEntry[], program: string): Promise<void> {
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
    await truncate(path, Math.ceil(size / MIB) * MIB);
    // DAX takes blocks of a page. Its journal is for the mount options that Kata gives.
    const options = ["-q", "-F", "-b", "4096", "-m", "0", "-E", "root_owner=0:0,lazy_itable_init=0", "-d", stage, path];
    await promisify(execFile)(program, options);
  } catch (error) {
    throw new VmError("Missing", `${path}: ${(error as Error).message.trim()}`, { cause: error });
  } finally {
    await rm(stage, { recursive: true, force: true });
  }
}
