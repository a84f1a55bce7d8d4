/** An image's inodes as the writer had them, so that it can be written on. */
import { LAYOUT } from "./format.ts";
import { Inode } from "./model.ts";
import { ErofsImage, type InodeInfo } from "./reader.ts";
import { ErofsTree } from "./writer.ts";

/** Opens the image at `path` for more entries. */
export async function resumeImage(path: string): Promise<ErofsTree> {
  const image = ErofsImage.open(path);
  try {
    return await ErofsTree.resume(path, loadTree(image), image.dataEnd);
  } finally {
    image.close();
  }
}

function loadTree(image: ErofsImage): Inode {
  const known = new Map<number, Inode>();
  const root = loadInode(image, image.root);
  const pending: [Inode, InodeInfo][] = [[root, image.root]];
  for (let next = pending.pop(); next !== undefined; next = pending.pop()) {
    const [directory, info] = next;
    for (const { name, nid } of image.list(info)) {
      const child = image.inode(nid);
      const inode = known.get(nid) ?? loadInode(image, child);
      directory.children?.set(name, inode);
      if (inode.children !== undefined) pending.push([inode, child]);
      else if (child.links > 1) known.set(nid, inode);
    }
  }
  return root;
}

function loadInode(image: ErofsImage, info: InodeInfo): Inode {
  const inode = new Inode(info.mode, { ...info, xattrs: image.xattrs(info) });
  inode.links = info.links;
  inode.size = info.size;
  if (inode.children !== undefined) return inode;
  if (info.layout === LAYOUT.chunked) {
    inode.chunks = image.chunkMap(info);
    inode.chunkBits = info.union & 0x1f;
  } else if (info.layout === LAYOUT.inline) {
    inode.inline = image.content(info);
  } else {
    inode.address = info.union;
  }
  return inode;
}
