/** The processes of a container, by its cgroup. */
import { readdirSync, readFileSync } from "node:fs";
import { join } from "node:path";
import { isMissing, type ContainerRecord } from "./record.ts";

const POLL_MS = 5;
const EMPTY_DEADLINE_MS = 10_000;

/** In the PID namespace of whoever asks, those of cgroups below it too; zombies are not listed by the kernel. */
export function processesOf(record: ContainerRecord): number[] {
  const directory = processesDirectory(record);
  return directory === undefined ? [] : processesBelow(directory);
}

/** The one of a container's cgroups that tells of its processes. */
export function processesDirectory({ cgroup_paths: paths }: ContainerRecord): string | undefined {
  const { freezer, pids, devices, "": unified } = paths;
  return freezer ?? pids ?? devices ?? unified ?? Object.values(paths)[0];
}

/** None where the cgroup is gone. */
export function processesBelow(directory: string): number[] {
  try {
    const own = readFileSync(join(directory, "cgroup.procs"), "utf8")
      .split("\n")
      .filter((line) => line !== "" && line !== "0")
      .map(Number);
    const children = readdirSync(directory, { withFileTypes: true }).filter((entry) => entry.isDirectory());
    return [...own, ...children.flatMap(({ name }) => processesBelow(join(directory, name)))];
  } catch (error) {
    if (isMissing(error) || (error as NodeJS.ErrnoException).code === "ENODEV") return [];
    throw error;
  }
}

/** Until no process is left in these cgroups, or ten seconds: v1 has no event for it. */
export function awaitEmpty(directories: readonly string[]): void {
  const deadline = Date.now() + EMPTY_DEADLINE_MS;
  while (Date.now() < deadline && directories.some((directory) => processesBelow(directory).length > 0))
    Atomics.wait(new Int32Array(new SharedArrayBuffer(4)), 0, 0, POLL_MS);
}
