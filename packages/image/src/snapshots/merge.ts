/** Copies the tree that layers make together, for containers whose root file system is no overlay. Synchronous reads: it has a worker to itself. */
import type { TreeMeta, TreeWriter } from "@berth/kernel";
import { S_IFLNK, S_IFMT, S_IFREG } from "../erofs/format.ts";
import { ErofsImage, type InodeInfo } from "../erofs/reader.ts";
import { join, toBytes, treePath } from "../layers/paths.ts";
import { entryOf, imageOf, type LayerRef } from "./layer-files.ts";
import { isDirectory, isWhiteout } from "./view.ts";

interface Layer {
  readonly image: ErofsImage;
  readonly opaque: ReadonlySet<string>;
  /** Paths of inodes with several names that are made already. */
  readonly linked: Map<number, string>;
}

interface Place {
  readonly layer: Layer;
  readonly inode: InodeInfo;
}

const OVERLAY_XATTRS = "trusted.overlay.";

/** `layers`: EROFS images, topmost first. Ends `tree`. */
export async function mergeLayers(layers: readonly LayerRef[], tree: TreeWriter): Promise<void> {
  const opened: Layer[] = [];
  try {
    for (const { home, opaque } of layers)
      opened.push({ image: ErofsImage.open(imageOf(home)), opaque: new Set(opaque), linked: new Map() });
    const places = opened.map((layer) => ({ layer, inode: layer.image.root }));
    await directory("", shown("", places), tree);
    await tree.end(false);
  } catch (error) {
    await tree.abort();
    throw error;
  } finally {
    for (const { image } of opened) image.close();
  }
}

/** Of directories at one path, topmost first, those that show. */
function shown(path: string, places: readonly Place[]): readonly Place[] {
  const cut = places.findIndex(({ layer }) => layer.opaque.has(path));
  return cut < 0 ? places : places.slice(0, cut + 1);
}

async function directory(path: string, places: readonly Place[], tree: TreeWriter): Promise<void> {
  const [top] = places;
  if (top === undefined) return;
  await tree.directory(treePath(path), top.inode.mode & 0o7777, metaOf(top));
  const names = new Map<string, Place[]>();
  for (const { layer, inode } of places) {
    for (const { name, nid } of layer.image.list(inode)) {
      const place = { layer, inode: layer.image.inode(nid) };
      const found = names.get(name);
      if (found === undefined) names.set(name, [place]);
      else found.push(place);
    }
  }
  for (const [name, found] of names) await child(join(path, name), found, tree);
}

async function child(path: string, found: readonly Place[], tree: TreeWriter): Promise<void> {
  const top = found[0] as Place;
  const entry = entryOf(top.inode);
  if (isWhiteout(entry)) return;
  if (!isDirectory(entry)) return await file(path, top, tree);
  const end = found.findIndex(({ inode }) => !isDirectory(inode));
  await directory(path, shown(path, end < 0 ? found : found.slice(0, end)), tree);
}

async function file(path: string, place: Place, tree: TreeWriter): Promise<void> {
  const { layer, inode } = place;
  const name = toBytes(path);
  const first = layer.linked.get(inode.nid);
  if (first !== undefined) return await tree.hardlink(name, toBytes(first));
  if (inode.links > 1) layer.linked.set(inode.nid, path);
  const meta = metaOf(place);
  const type = inode.mode & S_IFMT;
  if (type === S_IFLNK) return await tree.symlink(name, layer.image.content(inode), meta);
  if (type !== S_IFREG) {
    const { major, minor } = entryOf(inode);
    return await tree.node(name, inode.mode, major, minor, meta);
  }
  await tree.file(name, inode.mode & 0o7777, BigInt(inode.size), meta);
  for (const piece of layer.image.pieces(inode))
    await (typeof piece === "number" ? tree.hole(BigInt(piece)) : tree.data(piece));
}

function metaOf({ layer, inode }: Place): TreeMeta {
  const { uid, gid, mtime } = inode;
  const xattrs = new Map([...layer.image.xattrs(inode)].filter(([name]) => !name.startsWith(OVERLAY_XATTRS)));
  return xattrs.size === 0 ? { uid, gid, mtime } : { uid, gid, mtime, xattrs };
}
