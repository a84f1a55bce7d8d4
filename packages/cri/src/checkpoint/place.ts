/** Where checkpoints are while they are made or restored: on the disk, for they are as large as the container's memory. */
import { join } from "node:path";
import type { CriContext } from "../context.ts";
import { precondition } from "../errors.ts";

export const checkpointsDir = ({ paths }: Pick<CriContext, "paths">): string => join(paths.root, "checkpoints");
/** What a container is restored from; gone with the container. */
export const restoredDir = (context: CriContext, id: string): string => join(checkpointsDir(context), id);
/** CRIU's images and its logs, in what a checkpoint was unpacked to. */
export const placesIn = (directory: string): { readonly images: string; readonly work: string } => ({
  images: join(directory, "checkpoint"),
  work: directory,
});

/** What CRIU fails at comes with the first error of its log in `directory`. */
export async function inCriusWords<T>(work: Promise<T>, directory: string): Promise<T> {
  try {
    return await work;
  } catch (error) {
    const { criuWords } = await import("@berth/runtime/criu");
    const words = await criuWords(error, directory);
    if (words === undefined) throw error;
    throw Object.assign(precondition(words), { cause: error });
  }
}
