/** Completes an unpacked layer with what only the layers beneath it tell. */
import { chmod, chown, open, utimes } from "node:fs/promises";
import { dirname } from "node:path";
import { ErofsImage } from "../erofs/reader.ts";
import { ErofsTree } from "../erofs/writer.ts";
import { type Entry, openLayer } from "../snapshots/layer-files.ts";
import { findAliases, needsRebase, type Own, rebase } from "../snapshots/rebase.ts";
import { LayerView } from "../snapshots/view.ts";
import type { Jobs, LayerTarget } from "./jobs.ts";
import { openTarget, pathOf } from "./targets.ts";

export async function completeLayer(request: Jobs["complete"]["request"]): Promise<ReadonlyMap<string, string>> {
  const { target, applied, below } = request;
  using view = new LayerView(below);
  const aliases = await findAliases(applied, view);
  if (aliases.size > 0) return aliases;
  if (needsRebase(applied)) await rebaseOn(request, view);
  const root = applied.implied.includes("") ? await view.find("") : undefined;
  if (root === undefined) return aliases;
  if (target.kind === "erofs") await setImageRoot(target.file, root.entry);
  else await setRoot(target.directory, root.entry);
  return aliases;
}

async function rebaseOn({ target, tree, applied }: Jobs["complete"]["request"], view: LayerView): Promise<void> {
  const writer = await openTarget(target, tree, true);
  try {
    const own = writer instanceof ErofsTree ? writer : directoryOf(target);
    await rebase(applied, view, own, writer);
    await writer.end(false);
  } catch (error) {
    await writer.abort();
    throw error;
  }
}

function directoryOf(target: LayerTarget): Own {
  const files = openLayer({ format: "directory", home: dirname(pathOf(target)) });
  return { has: async (path) => (await files.entry(path)) !== undefined };
}

/** The merged root directory shows the attributes of the topmost layer's. */
export async function setRoot(directory: string, { mode, uid, gid, mtime }: Entry): Promise<void> {
  await chown(directory, uid, gid);
  await chmod(directory, mode & 0o7777);
  const seconds = Number(mtime) / 1e9;
  await utimes(directory, seconds, seconds);
}

/** In place: the root is an extended inode, as every directory's. */
async function setImageRoot(path: string, { mode, uid, gid, mtime }: Entry): Promise<void> {
  const image = ErofsImage.open(path);
  const at = image.offsetOf(image.superBlock.rootNid);
  image.close();
  const file = await open(path, "r+");
  try {
    const inode = Buffer.alloc(64);
    await file.read(inode, 0, 64, at);
    const nanoseconds = ((mtime % NS) + NS) % NS;
    inode.writeUInt16LE(mode, 4);
    inode.writeUInt32LE(uid, 24);
    inode.writeUInt32LE(gid, 28);
    inode.writeBigInt64LE((mtime - nanoseconds) / NS, 32);
    inode.writeUInt32LE(Number(nanoseconds), 40);
    await file.write(inode, 0, 64, at);
  } finally {
    await file.close();
  }
}

const NS = 1_000_000_000n;
