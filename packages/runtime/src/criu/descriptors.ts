/** What a checkpointed container's descriptors 0 to 2 were, kept beside CRIU's images as libcontainer keeps it (descriptors.json). */
import { readFile, readlink, writeFile } from "node:fs/promises";
import { join } from "node:path";

export const descriptorsFile = (images: string): string => join(images, "descriptors.json");

/** Those of a process that still runs. */
export const descriptorsOf = (pid: number): Promise<string[]> =>
  Promise.all([0, 1, 2].map((fd) => readlink(`/proc/${pid}/fd/${fd}`)));

export async function writeDescriptors(images: string, descriptors: readonly string[]): Promise<void> {
  await writeFile(descriptorsFile(images), JSON.stringify(descriptors), { mode: 0o600 });
}

/** Undefined: there is no such list. */
export async function readDescriptors(images: string): Promise<string[] | undefined> {
  try {
    const found: unknown = JSON.parse(await readFile(descriptorsFile(images), "utf8"));
    if (Array.isArray(found) && found.every((one) => typeof one === "string")) return found;
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code !== "ENOENT" && !(error instanceof SyntaxError)) throw error;
  }
  return undefined;
}
