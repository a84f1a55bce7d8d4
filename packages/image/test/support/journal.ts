/**
 * What a process wrote, synced and renamed, line by line: from it a test takes away what a power cut may, all that was not synced.
 * SQLite's own files are not in it: they are left as they are, which is as far ahead of the files as they can get.
 */
import fs from "node:fs";
import promises, { type FileHandle } from "node:fs/promises";
import { dirname } from "node:path";

type Any = (...args: unknown[]) => unknown;
type Line = readonly ["write" | "sync" | "entry", path: string] | readonly ["rename", from: string, to: string];

export function keepJournal(path: string, handle: object): void {
  const append = fs.appendFileSync;
  const say = (...line: Line): void => append(path, `${JSON.stringify(line)}\n`);
  const paths = new WeakMap<object, string>();
  after(promises, "open", async (result, at, flags) => {
    const opened = (await result) as FileHandle;
    paths.set(opened, String(at));
    if (typeof flags === "string" && flags.startsWith("w")) say("entry", String(at));
  });
  for (const name of ["write", "writeFile", "truncate"])
    before(handle, name, (self) => say("write", paths.get(self) ?? ""));
  for (const name of ["sync", "datasync"])
    after(handle, name, async (result, _at, _flags, self) => {
      await result;
      say("sync", paths.get(self as object) ?? "");
    });
  after(promises, "mkdir", async (result, at) => {
    await result;
    say("entry", String(at));
  });
  after(promises, "rename", async (result, from, to) => {
    await result;
    say("rename", String(from), String(to));
  });
}

function before(object: object, name: string, work: (self: object) => void): void {
  const holder = object as Record<string, Any>;
  const original = holder[name] as Any;
  holder[name] = function (this: object, ...args: unknown[]): unknown {
    work(this);
    return original.apply(this, args);
  };
}

/** `work` is awaited before the caller goes on. */
function after(
  object: object,
  name: string,
  work: (result: unknown, first: unknown, second: unknown, self: unknown) => Promise<void>,
): void {
  const holder = object as Record<string, Any>;
  const original = holder[name] as Any;
  holder[name] = async function (this: unknown, ...args: unknown[]): Promise<unknown> {
    const result = original.apply(this, args);
    await work(result, args[0], args[1], this);
    return await result;
  };
}

/** Takes away below `root` what was written and not synced, and names that were made and whose directory was not synced since. */
export function cutPower(journal: string, root: string): string[] {
  const dirty = new Set<string>();
  const entries = new Set<string>();
  const lines = fs.existsSync(journal) ? fs.readFileSync(journal, "utf8") : "";
  for (const text of lines.split("\n").filter(Boolean)) {
    const [kind, path, to] = JSON.parse(text) as [Line[0], string, string | undefined];
    if (kind === "write") dirty.add(path);
    else if (kind === "entry") entries.add(path);
    else if (kind === "sync") {
      dirty.delete(path);
      for (const entry of entries) if (dirname(entry) === path) entries.delete(entry);
    } else if (to !== undefined) {
      if (dirty.delete(path)) dirty.add(to);
      entries.delete(path);
      entries.add(to);
    }
  }
  const lost: string[] = [];
  for (const path of dirty) {
    if (!path.startsWith(`${root}/`) || !fs.existsSync(path)) continue;
    fs.truncateSync(path);
    lost.push(path);
  }
  for (const path of entries) {
    if (!/\/(content|snapshots)\/./.test(path) || !path.startsWith(`${root}/`) || !fs.existsSync(path)) continue;
    fs.rmSync(path, { recursive: true });
    lost.push(path);
  }
  return lost;
}
