/** The files of the CDI directories: which there are, and their contents, each read again only when it has changed. */
import { type BigIntStats, constants } from "node:fs";
import { open, readdir, stat } from "node:fs/promises";
import { extname, join } from "node:path";
import { CdiError } from "./errors.ts";
import { splitKind } from "./names.ts";
import { parseCdiSpec } from "./parse.ts";
import type { CdiSpec, LoadedSpec } from "./types.ts";

export const DEFAULT_SPEC_DIRS: readonly string[] = ["/etc/cdi", "/var/run/cdi"];
const EXTENSIONS = new Set([".json", ".yaml"]);
/** Bytes. A specification of a large machine has a few hundred thousand. */
const MAX_FILE_SIZE = 16 * 1024 * 1024;

/** A further check of every specification that is loaded or written; throws Error. */
export type SpecValidator = (spec: CdiSpec) => void;

export interface LoadedFile {
  readonly path: string;
  readonly priority: number;
  /** What the file was when it was read; another one means another content. */
  readonly stamp: string;
  readonly loaded?: LoadedSpec;
  readonly error?: Error;
}

export interface ScannedDir {
  readonly dir: string;
  /** Of the directory, so that a file which came or went is noticed by one look at it; "" when there is none. */
  readonly stamp: string;
  readonly files: readonly LoadedFile[];
  readonly error?: Error;
}

/** Never throws: what cannot be read is recorded with its file or directory. `known`: what an earlier scan read. */
export async function scanDir(
  dir: string,
  priority: number,
  known: ReadonlyMap<string, LoadedFile>,
  validator?: SpecValidator,
): Promise<ScannedDir> {
  // The stamp first: a file that comes between the two is then seen as a change.
  const stamp = await dirStamp(dir);
  try {
    const names = (await readdir(dir, { withFileTypes: true }))
      .filter((entry) => !entry.isDirectory() && EXTENSIONS.has(extname(entry.name)))
      .map((entry) => entry.name)
      .sort(byBytes);
    const files = await Promise.all(
      names.map((name) => loadFile(join(dir, name), priority, known.get(join(dir, name)), validator)),
    );
    return { dir, stamp, files: files.filter((file) => file !== undefined) };
  } catch (error) {
    return { dir, stamp, files: [], error: error as Error };
  }
}

export async function dirStamp(dir: string): Promise<string> {
  try {
    const { dev, ino, mtimeNs, ctimeNs } = await stat(dir, { bigint: true });
    return `${dev}:${ino}:${mtimeNs}:${ctimeNs}`;
  } catch {
    return "";
  }
}

/** undefined: it went away since it was listed. */
async function loadFile(
  path: string,
  priority: number,
  known: LoadedFile | undefined,
  validator: SpecValidator | undefined,
): Promise<LoadedFile | undefined> {
  let stamp = "";
  try {
    const read = await readSpecFile(path, known?.stamp);
    if (read === undefined && known?.priority === priority) return known;
    const { content, stamp: now } = read ?? (await readSpecFile(path)) ?? { content: "", stamp: "" };
    stamp = now;
    return { path, priority, stamp, loaded: loadedSpec(parseCdiSpec(content, path), path, priority, validator) };
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === "ENOENT") return undefined;
    return { path, priority, stamp, error: error as Error };
  }
}

/** undefined: the file is what it was at `knownStamp`. Throws CdiError, or the error of the file system. */
async function readSpecFile(
  path: string,
  knownStamp?: string,
): Promise<{ readonly content: string; readonly stamp: string } | undefined> {
  // Not blocking: a FIFO of such a name must not hold up every container.
  await using file = await open(path, constants.O_RDONLY | constants.O_NONBLOCK);
  const stats = await file.stat({ bigint: true });
  if (!stats.isFile()) throw new CdiError({ file: path }, "is not a regular file");
  if (stats.size > MAX_FILE_SIZE)
    throw new CdiError({ file: path }, `has ${stats.size} bytes, more than the ${MAX_FILE_SIZE} that are read`);
  const stamp = stampOf(stats);
  return stamp === knownStamp ? undefined : { content: await file.readFile("utf8"), stamp };
}

/** What a file is now, to compare with the stamp of what was loaded; "" when it is gone. */
export async function fileStamp(path: string): Promise<string> {
  try {
    return stampOf(await stat(path, { bigint: true }));
  } catch {
    return "";
  }
}

const stampOf = ({ dev, ino, size, mtimeNs, ctimeNs }: BigIntStats): string =>
  [dev, ino, size, mtimeNs, ctimeNs].join(":");

/** `spec` must be valid. Throws what the validator throws, as CdiError. */
export function loadedSpec(spec: CdiSpec, path: string, priority: number, validator?: SpecValidator): LoadedSpec {
  try {
    validator?.(spec);
  } catch (error) {
    throw new CdiError({ file: path }, (error as Error).message, { cause: error });
  }
  return { spec, ...splitKind(spec.kind), path, priority };
}

/** The order in which Go, and so the reference, lists a directory. */
const byBytes = (a: string, b: string): number => Buffer.compare(Buffer.from(a), Buffer.from(b));
