/** The end of a container: its processes, its cgroup, its state directory. What was done already is no error. */
import { readdirSync, rmdirSync } from "node:fs";
import { join } from "node:path";
import { CommandError } from "../command/failure.ts";
import { isFrozen, thaw } from "./freezer.ts";
import { processesOf } from "./processes.ts";
import { isMissing, type ContainerRecord, type StateDirectory } from "./record.ts";
import { isAlive } from "./status.ts";

const SIGKILL = 9;
const KILL_DEADLINE_MS = 10_000;
const REMOVE_DEADLINE_MS = 2_000;
const FIRST_POLL_MS = 1;
const LAST_POLL_MS = 100;

/** Kills what is left and removes everything. Throws CommandError where processes outlive SIGKILL. */
export function removeContainer(record: ContainerRecord, states: StateDirectory): void {
  killEverything(record);
  for (const directory of new Set(Object.values(record.cgroup_paths))) removeCgroup(directory);
  states.remove(record.id);
}

/** SIGKILL to the process and to all of its cgroup, until none is left. */
function killEverything(record: ContainerRecord): void {
  const left = () => [...(isAlive(record) ? [record.init_process_pid] : []), ...processesOf(record)];
  const deadline = Date.now() + KILL_DEADLINE_MS;
  for (let pause = FIRST_POLL_MS; ; pause = Math.min(pause * 2, LAST_POLL_MS)) {
    const pids = left();
    if (pids.length === 0) return;
    if (Date.now() > deadline) throw new CommandError(`container init still running: ${pids.join(" ")}`);
    for (const pid of pids) kill(pid);
    if (isFrozen(record)) thaw(record);
    sleep(pause);
  }
}

function kill(pid: number): void {
  try {
    process.kill(pid, SIGKILL);
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code !== "ESRCH") throw error;
  }
}

/** With those below it. The kernel answers EBUSY for a moment after the last process is gone. */
function removeCgroup(directory: string): void {
  const deadline = Date.now() + REMOVE_DEADLINE_MS;
  for (let pause = FIRST_POLL_MS; ; pause = Math.min(pause * 2, LAST_POLL_MS)) {
    try {
      removeBelow(directory);
      return;
    } catch (error) {
      if (isMissing(error)) return;
      if ((error as NodeJS.ErrnoException).code !== "EBUSY" || Date.now() > deadline) throw error;
    }
    sleep(pause);
  }
}

function removeBelow(directory: string): void {
  try {
    // Most have no children: without looking.
    rmdirSync(directory);
    return;
  } catch (error) {
    if (isMissing(error)) return;
    if ((error as NodeJS.ErrnoException).code !== "EBUSY") throw error;
  }
  for (const entry of readdirSync(directory, { withFileTypes: true }))
    if (entry.isDirectory()) removeBelow(join(directory, entry.name));
  rmdirSync(directory);
}

function sleep(milliseconds: number): void {
  Atomics.wait(new Int32Array(new SharedArrayBuffer(4)), 0, 0, milliseconds);
}
