/**
 * Where templates are: a directory for each, by its digest, which comes whole by rename(2). Several daemons may use one place; who copies
 * a template opens its files first, and may go on when they are removed.
 */
import { randomBytes } from "node:crypto";
import { mkdir, readFile, rename, rm, stat, utimes, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { isLeftClaim } from "./claim.ts";
import { isCurrent, type TemplateKey } from "./key.ts";
import { namesIn } from "../names-in.ts";
import { isAlive } from "./processes.ts";

export interface Template {
  readonly directory: string;
  /** The guest's, without what is empty in it. */
  readonly memory: string;
  /** Of the machine's processors and devices, as QEMU migrates it. */
  readonly state: string;
  /** What its guest says of itself (GuestWords). */
  readonly guest: string;
}

/** template.json, whose time is that of the last use. */
const DESCRIPTION = "template.json";
/** Being made: ".new-PID-…", by that process. */
const NEW = /^\.new-(\d+)-/;
/** Each takes tens of megabytes, and a pod's annotations can ask for any. */
const MOST = 8;

const templateAt = (directory: string): Template => ({
  directory,
  memory: join(directory, "memory"),
  state: join(directory, "state"),
  guest: join(directory, "guest.json"),
});

/** Undefined: it is not made. */
export async function findTemplate(place: string, { digest }: TemplateKey): Promise<Template | undefined> {
  const found = templateAt(join(place, digest));
  const now = new Date();
  try {
    await utimes(join(found.directory, DESCRIPTION), now, now);
    return found;
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === "ENOENT") return undefined;
    throw error;
  }
}

/** `make` fills a directory; what is there when it returns becomes the template. Somebody else may have been faster. */
export async function addTemplate(
  place: string,
  key: TemplateKey,
  make: (template: Template) => Promise<void>,
): Promise<Template> {
  const directory = join(place, `.new-${process.pid}-${randomBytes(4).toString("hex")}`);
  await mkdir(directory, { recursive: true, mode: 0o700 });
  try {
    await make(templateAt(directory));
    await writeFile(join(directory, DESCRIPTION), JSON.stringify(key));
    await rename(directory, join(place, key.digest));
  } catch (error) {
    if (!["ENOTEMPTY", "EEXIST"].includes((error as NodeJS.ErrnoException).code ?? "")) throw error;
  } finally {
    await rm(directory, { recursive: true, force: true });
  }
  return templateAt(join(place, key.digest));
}

export async function removeTemplate({ directory }: Template): Promise<void> {
  await rm(directory, { recursive: true, force: true });
}

export interface TemplateAbout extends Template {
  readonly key: TemplateKey;
  readonly usedMs: number;
}

/** Whole ones, the last used first. */
export async function listTemplates(place: string): Promise<TemplateAbout[]> {
  const found: TemplateAbout[] = [];
  for (const name of await namesIn(place)) {
    const template = templateAt(join(place, name));
    const file = join(template.directory, DESCRIPTION);
    try {
      const key = JSON.parse(await readFile(file, "utf8")) as TemplateKey;
      found.push({ ...template, key, usedMs: (await stat(file)).mtimeMs });
    } catch (error) {
      if (!["ENOENT", "ENOTDIR"].includes((error as NodeJS.ErrnoException).code ?? "")) throw error;
    }
  }
  return found.sort((a, b) => b.usedMs - a.usedMs);
}

/** Removes what is of no use any more: made of files that have changed, the longest unused of too many, or begun by a process that is gone. */
export async function removeStale(place: string): Promise<void> {
  for (const name of await namesIn(place)) {
    const pid = NEW.exec(name)?.[1];
    const isLeft = pid === undefined ? await isLeftClaim(place, name) : !isAlive(pid);
    if (isLeft) await rm(join(place, name), { recursive: true, force: true });
  }
  for (const [index, template] of (await listTemplates(place)).entries())
    if (index >= MOST || !(await isCurrent(template.key.inputs))) await removeTemplate(template);
}
