/** Which process makes a template, of all that share its place: daemons, and shims, of which a node starts many at once. */
import { mkdir, readlink, rm, symlink } from "node:fs/promises";
import { join } from "node:path";
import { isAlive } from "./processes.ts";

/** A link to the number of the process, as that is made at once or not at all. */
const CLAIM = ".making-";

/** Disposed of when the template is there. Undefined: another process makes it. */
export async function claimTemplate(place: string, digest: string): Promise<AsyncDisposable | undefined> {
  await mkdir(place, { recursive: true, mode: 0o700 });
  const path = join(place, `${CLAIM}${digest}`);
  // One that finds it given up in between may make a template in vain.
  while (!(await linked(path))) {
    if (await isHeld(path)) return undefined;
    await rm(path, { force: true });
  }
  return { [Symbol.asyncDispose]: () => rm(path, { force: true }) };
}

/** Whether an entry of a place is a claim of a process that is gone. */
export async function isLeftClaim(place: string, name: string): Promise<boolean> {
  return name.startsWith(CLAIM) && !(await isHeld(join(place, name)));
}

async function linked(path: string): Promise<boolean> {
  try {
    await symlink(String(process.pid), path);
    return true;
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === "EEXIST") return false;
    throw error;
  }
}

async function isHeld(path: string): Promise<boolean> {
  try {
    return isAlive(await readlink(path));
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === "ENOENT") return false;
    throw error;
  }
}
