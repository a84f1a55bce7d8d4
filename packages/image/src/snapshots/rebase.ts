/**
 * What a layer that was unpacked by itself needs from the layers beneath it: the attributes of directories that its
 * archive does not mention, the files that its hard links name, and symlinks that its paths go through.
 */
import type { TreeMeta, TreeWriter } from "@berth/kernel";
import type { BigIntStats } from "node:fs";
import { lstat, open, readlink } from "node:fs/promises";
import { join as joinPath } from "node:path";
import { ImageError } from "../errors.ts";
import type { AppliedLayer } from "../layers/apply.ts";
import { join, toBytes, toName } from "../layers/paths.ts";
import type { Found, LayerView } from "./view.ts";

const OPAQUE = new Map([["trusted.overlay.opaque", toBytes("y")]]);
const CHUNK = 256 * 1024;
const S_IFMT = 0o170000n;

/** Symlinks of lower layers at paths where this layer implied a directory: path → target. */
export async function findAliases(applied: AppliedLayer, below: LayerView): Promise<Map<string, string>> {
  const aliases = new Map<string, string>();
  for (const path of applied.implied) {
    if (path === "") continue;
    const found = await below.find(path);
    if (found?.stat.isSymbolicLink() === true)
      aliases.set(path, toName(await readlink(found.host, { encoding: "buffer" })));
  }
  return aliases;
}

/** Whether `rebase` has anything to do. */
export function needsRebase(applied: AppliedLayer): boolean {
  return applied.implied.some((path) => path !== "") || applied.missingLinks.length > 0;
}

/** All but the root, which is not the archive's but the snapshotter's. Writes into `directory` through `tree`, which the caller ends. Throws InvalidImage for a hard link to nothing. */
export async function rebase(
  applied: AppliedLayer,
  below: LayerView,
  directory: string,
  tree: TreeWriter,
): Promise<void> {
  const opaque = new Set(applied.opaque);
  for (const { path, target } of applied.missingLinks) await relink(path, target, below, directory, tree);
  for (const path of applied.implied) {
    const found = path === "" ? undefined : await below.find(path);
    if (found?.stat.isDirectory() !== true) continue;
    const meta = metaOf(found.stat);
    await tree.directory(toBytes(path), modeOf(found.stat), opaque.has(path) ? { ...meta, xattrs: OPAQUE } : meta);
  }
}

/** Copies the target up into this layer, as overlayfs would on link(2), and links it. Extended attributes do not come along. */
async function relink(
  path: string,
  target: string,
  below: LayerView,
  directory: string,
  tree: TreeWriter,
): Promise<void> {
  const found = await below.resolve(target, false);
  if (found === undefined || found.stat.isDirectory())
    throw new ImageError("InvalidImage", `hard link "${path}" to "${target}", which no layer has`);
  if (!(await exists(directory, found.path))) {
    await copyParents(found.path, below, directory, tree);
    await copyUp(found, tree);
  }
  await tree.hardlink(toBytes(path), toBytes(found.path));
}

async function copyParents(path: string, below: LayerView, directory: string, tree: TreeWriter): Promise<void> {
  let at = "";
  for (const part of path.split("/").slice(0, -1)) {
    at = join(at, part);
    if (await exists(directory, at)) continue;
    const found = await below.find(at);
    if (found !== undefined) await tree.directory(toBytes(at), modeOf(found.stat), metaOf(found.stat));
  }
}

async function copyUp({ path, host, stat }: Found, tree: TreeWriter): Promise<void> {
  const name = toBytes(path);
  if (stat.isSymbolicLink())
    return await tree.symlink(name, await readlink(host, { encoding: "buffer" }), metaOf(stat));
  if (!stat.isFile())
    return await tree.node(
      name,
      Number(stat.mode & S_IFMT) | modeOf(stat),
      major(stat.rdev),
      minor(stat.rdev),
      metaOf(stat),
    );
  await tree.file(name, modeOf(stat), stat.size, metaOf(stat));
  const file = await open(host, "r");
  try {
    for await (const chunk of file.createReadStream({ highWaterMark: CHUNK, autoClose: false }))
      await tree.data(chunk as Uint8Array);
  } finally {
    await file.close();
  }
}

async function exists(directory: string, path: string): Promise<boolean> {
  try {
    await lstat(Buffer.concat([Buffer.from(joinPath(directory, "/")), toBytes(path)]));
    return true;
  } catch (error) {
    const { code } = error as { code?: string };
    if (code === "ENOENT" || code === "ENOTDIR") return false;
    throw error;
  }
}

function metaOf(stat: BigIntStats): TreeMeta {
  return { uid: Number(stat.uid), gid: Number(stat.gid), mtime: stat.mtimeNs };
}

function modeOf(stat: BigIntStats): number {
  return Number(stat.mode & 0o7777n);
}

/** glibc's gnu_dev_major and gnu_dev_minor, in which stat(2) reports device numbers. */
function major(device: bigint): number {
  return Number(((device >> 8n) & 0xfffn) | ((device >> 32n) & 0xfffff000n));
}

function minor(device: bigint): number {
  return Number((device & 0xffn) | ((device >> 12n) & 0xffffff00n));
}
