/** Processes that go over to another cgroup, in every hierarchy. What they have been charged stays where it was. */
import { readFile, writeFile } from "node:fs/promises";
import { join } from "node:path";
import type { HostFacts } from "../host.ts";
import { cgroupDirectories } from "./hierarchy.ts";

/** So often processes may have had children meanwhile. */
const ROUNDS = 100;

/** Both are there. Returns when none is left in the first; those of cgroups below it stay. Throws Error. */
export async function moveProcesses(from: string, to: string, host: HostFacts): Promise<void> {
  const [source, target] = [cgroupDirectories(from, host.cgroups), cgroupDirectories(to, host.cgroups)];
  for (const [index, { directory }] of source.v1.entries()) await moveAll(directory, target.v1[index]?.directory);
  if (source.unified !== undefined) await moveAll(source.unified, target.unified);
}

async function moveAll(from: string, to: string | undefined): Promise<void> {
  if (to === undefined) return;
  for (let round = 0; round < ROUNDS; round++) {
    const processes = (await readFile(join(from, "cgroup.procs"), "utf8")).split("\n").filter((line) => line !== "");
    if (processes.length === 0) return;
    for (const pid of processes) await move(pid, join(to, "cgroup.procs"));
  }
  throw new Error(`processes of cgroup ${from} multiply faster than they can be moved to ${to}`);
}

async function move(pid: string, file: string): Promise<void> {
  try {
    await writeFile(file, pid);
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code !== "ESRCH") throw error;
  }
}
