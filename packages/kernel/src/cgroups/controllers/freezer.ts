/** freezer: stops and resumes a whole cgroup (freezer-subsystem.rst; cgroup-v2.rst "cgroup.freeze"). */
import { readFile, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { setTimeout } from "node:timers/promises";
import type { HostFacts } from "../../host.ts";
import { cgroupDirectories, v1Directory } from "../hierarchy.ts";

/** Lets a frozen cgroup run again, so that signals reach its processes. A cgroup that is not there is success. */
export async function thaw(path: string, host: HostFacts): Promise<void> {
  const directories = cgroupDirectories(path, host.cgroups);
  const v1 = v1Directory(directories, "freezer");
  const file =
    v1 !== undefined
      ? join(v1, "freezer.state")
      : directories.unified === undefined
        ? undefined
        : join(directories.unified, "cgroup.freeze");
  if (file === undefined) return;
  await writeFile(file, v1 === undefined ? "0" : "THAWED").catch((error: NodeJS.ErrnoException) => {
    if (error.code !== "ENOENT" && error.code !== "ENODEV") throw error;
  });
}

/** v1 goes back from FREEZING when a process forks meanwhile: it is then thawed and tried again. */
const TRIES = 1000;
const THAW_EVERY = 50;
const POLL_MS = 1;

/** Stops every process; resolves once all stand still. Throws Error where the machine has no freezer, or they do not. */
export async function freeze(path: string, host: HostFacts): Promise<void> {
  const directories = cgroupDirectories(path, host.cgroups);
  const v1 = v1Directory(directories, "freezer");
  const { unified } = directories;
  if (v1 === undefined && unified === undefined) throw new Error(`cgroup ${path}: this machine has no freezer`);
  for (let tries = 1; tries <= TRIES; tries++) {
    if (v1 !== undefined) await writeFile(join(v1, "freezer.state"), tries % THAW_EVERY === 0 ? "THAWED" : "FROZEN");
    else if (tries === 1) await writeFile(join(unified ?? "", "cgroup.freeze"), "1");
    const told = await readFile(
      join(v1 ?? unified ?? "", v1 === undefined ? "cgroup.events" : "freezer.state"),
      "utf8",
    );
    if (v1 === undefined ? /^frozen 1$/m.test(told) : told.trim() === "FROZEN") return;
    // The kernel has no event for a v1 freezer, and tells of v2's only every 10 ms.
    await setTimeout(POLL_MS);
  }
  await thaw(path, host);
  throw new Error(`cgroup ${path}: its processes do not stand still`);
}
