/** Labels in a file, from which node-feature-discovery takes them. */
import { rename, rm, writeFile } from "node:fs/promises";
import { basename, dirname, join, resolve } from "node:path";
import type { Labels } from "./resource.ts";

export const formatLabels = (labels: Labels): string =>
  Object.entries(labels)
    .map(([name, value]) => `${name}=${value}\n`)
    .sort()
    .join("");

/** The file is there whole, or as it was: node-feature-discovery reads all of its directory but names with a dot in front. */
export async function writeLabels(path: string, labels: Labels): Promise<void> {
  const temporary = join(dirname(path), `.${basename(path)}.${process.pid}`);
  try {
    await writeFile(temporary, formatLabels(labels), { mode: 0o644 });
    await rename(temporary, path);
  } catch (error) {
    await rm(temporary, { force: true });
    throw error;
  }
}

export async function removeLabels(path: string): Promise<void> {
  await rm(resolve(path), { force: true });
}
