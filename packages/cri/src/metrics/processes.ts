/** What the processes of a container hold, counted in /proc (cAdvisor's "process" and "task state" metrics). */
import { readFile, readdir, readlink } from "node:fs/promises";
import { cgroupDirectories, type HostFacts, processesBelow } from "@berth/kernel";
import type { ContainerRecord } from "../store/records.ts";

export interface ProcessCounts {
  readonly processes: number;
  readonly descriptors: number;
  readonly sockets: number;
  /** RLIMIT_NOFILE of the container's first process; undefined: unlimited, or gone. */
  readonly softNofile: bigint | undefined;
  readonly states: Readonly<Record<TaskState, number>>;
}

type TaskState = "running" | "sleeping" | "stopped" | "uninterruptible" | "iowaiting";

/** Field 3 of /proc/PID/stat (proc(5)). */
const STATES: Readonly<Record<string, TaskState>> = {
  R: "running",
  S: "sleeping",
  I: "sleeping",
  T: "stopped",
  t: "stopped",
  D: "uninterruptible",
};

export async function countProcesses(record: ContainerRecord, host: HostFacts): Promise<ProcessCounts> {
  const { unified, v1 } = cgroupDirectories(record.cgroupPath, host.cgroups);
  const pids = await processesBelow(unified ?? v1[0]?.directory ?? "");
  const [all, softNofile] = await Promise.all([
    Promise.all(pids.map((pid) => look(pid).catch(goneAs(undefined)))),
    openFilesLimit(record.pid).catch(goneAs(undefined)),
  ]);
  const states = { running: 0, sleeping: 0, stopped: 0, uninterruptible: 0, iowaiting: 0 };
  const counts = { processes: 0, descriptors: 0, sockets: 0 };
  for (const one of all) {
    if (!one) continue;
    counts.processes++;
    counts.descriptors += one.descriptors;
    counts.sockets += one.sockets;
    if (one.state) states[one.state]++;
  }
  return { ...counts, softNofile, states };
}

async function look(pid: number): Promise<{ state: TaskState | undefined; descriptors: number; sockets: number }> {
  const [stat, descriptors] = await Promise.all([readFile(`/proc/${pid}/stat`, "latin1"), readdir(`/proc/${pid}/fd`)]);
  const targets = await Promise.all(descriptors.map((fd) => readlink(`/proc/${pid}/fd/${fd}`).catch(goneAs(""))));
  // The name in parentheses may hold anything.
  const state = STATES[stat.slice(stat.lastIndexOf(")") + 2, stat.lastIndexOf(")") + 3)];
  return { state, descriptors: targets.length, sockets: targets.filter((to) => to.startsWith("socket:")).length };
}

async function openFilesLimit(pid: number): Promise<bigint | undefined> {
  if (pid <= 0) return undefined;
  const limits = await readFile(`/proc/${pid}/limits`, "latin1");
  const soft = /^Max open files\s+(\d+)/m.exec(limits)?.[1];
  return soft === undefined ? undefined : BigInt(soft);
}

/** Processes come and go while they are counted. */
const goneAs =
  <T>(value: T) =>
  (error: NodeJS.ErrnoException): T => {
    if (error.code === "ENOENT" || error.code === "ESRCH") return value;
    throw error;
  };
