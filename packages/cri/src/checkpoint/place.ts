/** Where checkpoints are while they are made or restored: on the disk, for they are as large as the container's memory. */
import { readFile } from "node:fs/promises";
import { join } from "node:path";
import { OrderError } from "@berth/kernel";
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
    if (!(error instanceof OrderError) || error.orderName?.startsWith("criu") !== true || error.code === "ETIMEDOUT")
      throw error;
    const first = error.detail.includes("Error") ? undefined : await firstError(directory);
    throw Object.assign(precondition(`${error.detail}${first === undefined ? "" : `: ${first}`}`), { cause: error });
  }
}

async function firstError(directory: string): Promise<string | undefined> {
  for (const name of ["dump.log", "restore.log"]) {
    const text = await readFile(join(directory, name), "utf8").catch((error: NodeJS.ErrnoException) => {
      if (error.code === "ENOENT") return "";
      throw error;
    });
    const line = text.split("\n").find((one) => one.includes("Error"));
    if (line !== undefined) return line.replace(/^\([\d.]+\)\s*(?:\d+:\s*)?/, "");
  }
  return undefined;
}
