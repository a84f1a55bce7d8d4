/**
 * What a layer that was unpacked by itself needs from the layers beneath it: the attributes of directories that its
 * archive does not mention, the files that its hard links name, and symlinks that its paths go through.
 */
import type { TreeMeta, TreeWriter } from "@berth/kernel";
import { S_IFMT } from "../erofs/format.ts";
import { ImageError } from "../errors.ts";
import type { AppliedLayer } from "../layers/apply.ts";
import { join, toBytes } from "../layers/paths.ts";
import type { Entry } from "./layer-files.ts";
import { type Found, isDirectory, isFile, isSymlink, type LayerView } from "./view.ts";

/** The layer's own entries, also while it is written. */
export interface Own {
  has(path: string): Promise<boolean>;
}

const OPAQUE = new Map([["trusted.overlay.opaque", toBytes("y")]]);

/** Symlinks of lower layers at paths where this layer implied a directory: path → target. */
export async function findAliases(
  { implied }: Pick<AppliedLayer, "implied">,
  below: LayerView,
): Promise<Map<string, string>> {
  const aliases = new Map<string, string>();
  for (const path of implied) {
    if (path === "") continue;
    const found = await below.find(path);
    if (found !== undefined && isSymlink(found.entry)) aliases.set(path, await found.files.target(path));
  }
  return aliases;
}

/** Whether `rebase` has anything to do. */
export function needsRebase(applied: Pick<AppliedLayer, "implied" | "missingLinks">): boolean {
  return applied.implied.some((path) => path !== "") || applied.missingLinks.length > 0;
}

/** All but the root, which is not the archive's but the snapshotter's. `own` is the layer, written through `tree`, which the caller ends. Throws InvalidImage for a hard link to nothing. */
export async function rebase(
  applied: Pick<AppliedLayer, "implied" | "missingLinks" | "opaque">,
  below: LayerView,
  own: Own,
  tree: TreeWriter,
): Promise<void> {
  const opaque = new Set(applied.opaque);
  const made = new Set<string>();
  for (const { path, target } of applied.missingLinks) await relink(path, target, below, own, made, tree);
  for (const path of applied.implied) {
    const found = path === "" ? undefined : await below.find(path);
    if (found === undefined || !isDirectory(found.entry)) continue;
    const meta = metaOf(found.entry);
    await tree.directory(toBytes(path), modeOf(found.entry), opaque.has(path) ? { ...meta, xattrs: OPAQUE } : meta);
  }
}

/** Copies the target up into this layer, as overlayfs would on link(2), and links it. */
async function relink(
  path: string,
  target: string,
  below: LayerView,
  own: Own,
  made: Set<string>,
  tree: TreeWriter,
): Promise<void> {
  const found = await below.resolve(target, false);
  if (found === undefined || isDirectory(found.entry))
    throw new ImageError("InvalidImage", `hard link "${path}" to "${target}", which no layer has`);
  if (!made.has(found.path) && !(await own.has(found.path))) {
    await copyParents(found.path, below, own, made, tree);
    await copyUp(found, tree);
    made.add(found.path);
  }
  await tree.hardlink(toBytes(path), toBytes(found.path));
}

async function copyParents(
  path: string,
  below: LayerView,
  own: Own,
  made: Set<string>,
  tree: TreeWriter,
): Promise<void> {
  let at = "";
  for (const part of path.split("/").slice(0, -1)) {
    at = join(at, part);
    if (made.has(at) || (await own.has(at))) continue;
    const found = await below.find(at);
    if (found !== undefined) await tree.directory(toBytes(at), modeOf(found.entry), metaOf(found.entry));
    made.add(at);
  }
}

async function copyUp({ path, files, entry }: Found, tree: TreeWriter): Promise<void> {
  const name = toBytes(path);
  const meta = { ...metaOf(entry), xattrs: files.xattrs(path) };
  if (isSymlink(entry)) return await tree.symlink(name, toBytes(await files.target(path)), meta);
  if (!isFile(entry))
    return await tree.node(name, (entry.mode & S_IFMT) | modeOf(entry), entry.major, entry.minor, meta);
  await tree.file(name, modeOf(entry), BigInt(entry.size), meta);
  for await (const piece of files.content(path))
    await (typeof piece === "number" ? tree.hole(BigInt(piece)) : tree.data(piece));
}

function metaOf({ uid, gid, mtime }: Entry): TreeMeta {
  return { uid, gid, mtime };
}

function modeOf({ mode }: Entry): number {
  return mode & 0o7777;
}
