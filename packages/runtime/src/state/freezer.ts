/** The freezer of a container's cgroup: `pause`, `resume`, and what shows that it is paused. */
import { readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { CommandError } from "../command/failure.ts";
import { isMissing, type ContainerRecord } from "./record.ts";

/** v1 goes back from FREEZING when a process forks meanwhile: it is then thawed and tried again. */
const TRIES = 1000;
const THAW_EVERY = 50;
const PAUSE_MS = 1;

export function isFrozen(record: Pick<ContainerRecord, "cgroup_paths">): boolean {
  const v1 = record.cgroup_paths.freezer;
  if (v1 !== undefined) return read(join(v1, "freezer.state"))?.trim() === "FROZEN";
  const v2 = record.cgroup_paths[""];
  return v2 !== undefined && read(join(v2, "cgroup.freeze"))?.trim() === "1";
}

/** Returns once every process is stopped. Throws CommandError. */
export function freeze(record: ContainerRecord): void {
  const v1 = record.cgroup_paths.freezer;
  if (v1 === undefined) return freezeV2(record);
  const file = join(v1, "freezer.state");
  for (let tries = 0; tries < TRIES; tries++) {
    if (tries % THAW_EVERY === THAW_EVERY - 1) writeFileSync(file, "THAWED");
    writeFileSync(file, "FROZEN");
    if (read(file)?.trim() === "FROZEN") return;
    wait();
  }
  writeFileSync(file, "THAWED");
  throw new CommandError("unable to freeze");
}

export function thaw(record: ContainerRecord): void {
  const v1 = record.cgroup_paths.freezer;
  const v2 = record.cgroup_paths[""];
  if (v1 !== undefined) writeFileSync(join(v1, "freezer.state"), "THAWED");
  else if (v2 !== undefined) writeFileSync(join(v2, "cgroup.freeze"), "0");
}

function freezeV2(record: ContainerRecord): void {
  const directory = record.cgroup_paths[""];
  if (directory === undefined) throw new CommandError("cannot toggle freezer: cgroups not configured for container");
  writeFileSync(join(directory, "cgroup.freeze"), "1");
  for (let tries = 0; tries < TRIES; tries++) {
    if (/^frozen 1$/m.test(read(join(directory, "cgroup.events")) ?? "")) return;
    wait();
  }
  writeFileSync(join(directory, "cgroup.freeze"), "0");
  throw new CommandError("unable to freeze");
}

/** The kernel has no event for a v1 freezer, and tells of v2's only every 10 ms. */
function wait(): void {
  Atomics.wait(new Int32Array(new SharedArrayBuffer(4)), 0, 0, PAUSE_MS);
}

function read(file: string): string | undefined {
  try {
    return readFileSync(file, "utf8");
  } catch (error) {
    if (isMissing(error) || (error as NodeJS.ErrnoException).code === "ENODEV") return undefined;
    throw error;
  }
}
