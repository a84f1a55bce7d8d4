/** Whether a bundle of sources, which a command is started from, is of the sources as they are. */
import { readFileSync, statSync } from "node:fs";
import { join } from "node:path";

export const MANIFEST = "manifest.json";

/** Another value is another content; undefined: there is no such file. */
export function stampOf(root: string, path: string): string | undefined {
  // join() takes longer than stat(2) while nothing has compiled it.
  const stats = statSync(`${root}/${path}`, { bigint: true, throwIfNoEntry: false });
  return stats && `${stats.size} ${stats.mtimeNs}`;
}

export function isFresh(root: string, directory: string): boolean {
  try {
    const stamps = JSON.parse(readFileSync(join(directory, MANIFEST), "utf8")) as [path: string, stamp: string][];
    return stamps.every(([path, stamp]) => stampOf(root, path) === stamp);
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code !== "ENOENT") throw error;
    return false;
  }
}
