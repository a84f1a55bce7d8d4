/** Ends every process of a cgroup: at once by cgroup.kill where there is cgroup2, else by signals until it is empty. */
import { access, readFile, readdir, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { setTimeout } from "node:timers/promises";
import type { HostFacts } from "../host.ts";
import { thaw } from "./controllers/freezer.ts";
import { cgroupDirectories, v1Directory } from "./hierarchy.ts";

/** How long the kernel may take to end processes that were sent SIGKILL: longer ones hang in the kernel (a dead NFS server). */
const DEADLINE_MS = 10_000;
const FIRST_POLL_MS = 1;
const LAST_POLL_MS = 20;

/**
 * SIGKILL to all, then waits until none is left. A cgroup that is not there is success. Throws Error when processes are
 * left after ten seconds, with their numbers.
 */
export async function killCgroup(path: string, host: HostFacts): Promise<void> {
  const directories = cgroupDirectories(path, host.cgroups);
  const { unified } = directories;
  const v1 = v1Directory(directories, "pids") ?? v1Directory(directories, "freezer") ?? directories.v1[0]?.directory;
  if (unified !== undefined && host.features.cgroupKill && (await kill(unified))) {
    // What v1's freezer holds dies only once it runs again; v2's lets the killed go by itself.
    if (v1Directory(directories, "freezer") !== undefined) await thaw(path, host);
    await untilEmpty(unified);
  }
  // A process that moved itself out of one hierarchy is still in the others.
  if (v1 !== undefined) await killBySignals(path, v1, host);
  else if (unified !== undefined && !host.features.cgroupKill) await killBySignals(path, unified, host);
}

/** False where there is no such cgroup. */
async function kill(directory: string): Promise<boolean> {
  try {
    await writeFile(join(directory, "cgroup.kill"), "1");
    return true;
  } catch (error) {
    if (isGone(error)) return false;
    throw error;
  }
}

/** Polled: the kernel tells of changes to cgroup.events only every 10 ms, and most processes are gone within one. */
async function untilEmpty(directory: string): Promise<void> {
  const events = join(directory, "cgroup.events");
  const deadline = Date.now() + DEADLINE_MS;
  for (let wait = FIRST_POLL_MS; await isPopulated(events); wait = Math.min(wait * 2, LAST_POLL_MS)) {
    if (Date.now() > deadline) throw outlived(directory, await processesBelow(directory));
    await setTimeout(wait);
  }
}

function outlived(directory: string, processes: readonly number[]): Error {
  return new Error(`processes of cgroup ${directory} outlive SIGKILL: ${processes.join(" ")}`);
}

async function isPopulated(events: string): Promise<boolean> {
  try {
    return /^populated 1$/m.test(await readFile(events, "utf8"));
  } catch (error) {
    if (isGone(error)) return false;
    throw error;
  }
}

async function killBySignals(path: string, directory: string, host: HostFacts): Promise<void> {
  const deadline = Date.now() + DEADLINE_MS;
  for (let wait = FIRST_POLL_MS; ; wait = Math.min(wait * 2, LAST_POLL_MS)) {
    const processes = await processesBelow(directory);
    if (processes.length === 0) return;
    if (Date.now() > deadline) throw outlived(directory, processes);
    for (const pid of processes) signal(pid);
    // A frozen process dies only once it runs again.
    if (wait === FIRST_POLL_MS) await thaw(path, host);
    await setTimeout(wait);
  }
}

function signal(pid: number): void {
  try {
    process.kill(pid, "SIGKILL");
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code !== "ESRCH") throw error;
  }
}

/** Of the cgroup and all below it; zombies are not listed by the kernel. */
export async function processesBelow(directory: string): Promise<number[]> {
  if (
    !(await access(directory).then(
      () => true,
      () => false,
    ))
  )
    return [];
  try {
    const own = (await readFile(join(directory, "cgroup.procs"), "utf8"))
      .split("\n")
      .filter((line) => line !== "")
      .map(Number);
    const children = (await readdir(directory, { withFileTypes: true })).filter((entry) => entry.isDirectory());
    const below = await Promise.all(children.map((child) => processesBelow(join(directory, child.name))));
    // 0 stands for a process of another PID namespace: not ours to signal.
    return [...own, ...below.flat()].filter((pid) => pid > 0);
  } catch (error) {
    if (isGone(error)) return [];
    throw error;
  }
}

function isGone(error: unknown): boolean {
  const { code } = error as NodeJS.ErrnoException;
  return code === "ENOENT" || code === "ENODEV";
}
