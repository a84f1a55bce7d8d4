/** Watches directories that may not be there yet, or not any more: by inotify on each, and on the nearest ancestor that exists. */
import { type FSWatcher, watch } from "node:fs";
import { stat } from "node:fs/promises";
import { basename, dirname } from "node:path";

export interface DirWatch {
  /** Errors of directories that are not watched themselves, by directory. */
  readonly errors: ReadonlyMap<string, Error>;
  /** Looks again which directories are there. To be called after each change. */
  rearm(): Promise<void>;
  close(): void;
}

/** `changed` is called for every event: what they mean is for a scan to find out. */
export function watchDirs(dirs: readonly string[], changed: () => void): DirWatch {
  let watchers: FSWatcher[] = [];
  let closed = false;
  const errors = new Map<string, Error>();
  const disarm = (): void => {
    for (const watcher of watchers.splice(0)) watcher.close();
  };
  const add = (path: string, about: (name: string | null) => boolean): void => {
    const watcher = watch(path, { persistent: false });
    watcher.on("change", (_type, name) => {
      if (about(name === null ? null : String(name))) changed();
    });
    watcher.on("error", changed);
    watchers.push(watcher);
  };
  /** The directory, and its parent, because a directory that was removed and made again is another one. */
  const arm = async (dir: string): Promise<void> => {
    let [path, child] = [dir, ""];
    const there = await isDirectory(dir);
    while (path !== dirname(path)) {
      [path, child] = [dirname(path), basename(path)];
      if (await isDirectory(path)) break;
    }
    if (closed) return;
    try {
      if (path !== dir) add(path, (name) => name === null || name === child);
      if (!there) throw Object.assign(new Error("no such file or directory"), { code: "ENOENT" });
      add(dir, () => true);
      errors.delete(dir);
    } catch (error) {
      errors.set(dir, new Error(`failed to monitor for changes: ${(error as Error).message}`, { cause: error }));
    }
  };
  return {
    errors,
    async rearm() {
      disarm();
      for (const dir of dirs) await arm(dir);
    },
    close() {
      closed = true;
      disarm();
      watchers = [];
    },
  };
}

async function isDirectory(path: string): Promise<boolean> {
  try {
    return (await stat(path)).isDirectory();
  } catch {
    return false;
  }
}
