/** What a layer is written into: a directory, by bosun, or an EROFS image, by this process. */
import type { TreeWriter } from "@berth/kernel";
import { resumeImage } from "../erofs/load.ts";
import { ErofsTree } from "../erofs/writer.ts";
import { toImageError } from "../errors.ts";
import type { LayerTarget, TreeSource } from "./jobs.ts";

type OpenTree = (socket: string, directory: string) => Promise<TreeWriter>;

/** `again`: what is in it already stays. Rejects with ImageError. */
export async function openTarget(target: LayerTarget, tree: TreeSource, again = false): Promise<TreeWriter> {
  const path = pathOf(target);
  try {
    if (target.kind === "erofs") return await (again ? resumeImage(path) : ErofsTree.create(path));
    const { openTree } = (await import(tree.module)) as { openTree: OpenTree };
    return await openTree(tree.socket, path);
  } catch (error) {
    throw toImageError(error, `open ${path}`);
  }
}

export function pathOf(target: LayerTarget): string {
  return target.kind === "erofs" ? target.file : target.directory;
}
