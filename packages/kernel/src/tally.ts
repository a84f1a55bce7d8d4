/** What some processes hold together, from what proc(5) has of each: a host's, or a guest's. */

export type TaskState = "running" | "sleeping" | "stopped" | "uninterruptible" | "iowaiting";

export interface ProcessTally {
  readonly processes: number;
  readonly descriptors: number;
  readonly sockets: number;
  /** RLIMIT_NOFILE of the first process; undefined: unlimited, or gone. */
  readonly softNofile: bigint | undefined;
  readonly states: Readonly<Record<TaskState, number>>;
}

export interface ProcessLook {
  /** /proc/PID/stat. */
  readonly stat: string;
  /** What the links in /proc/PID/fd lead to. */
  readonly descriptors: readonly string[];
}

/** Field 3 of /proc/PID/stat (proc(5)). */
const STATES: Readonly<Record<string, TaskState>> = {
  R: "running",
  S: "sleeping",
  I: "sleeping",
  T: "stopped",
  t: "stopped",
  D: "uninterruptible",
};

/** `limits`: /proc/PID/limits of the first, or nothing. */
export function tallyProcesses(looks: readonly ProcessLook[], limits: string): ProcessTally {
  const states = { running: 0, sleeping: 0, stopped: 0, uninterruptible: 0, iowaiting: 0 };
  const counts = { processes: looks.length, descriptors: 0, sockets: 0 };
  for (const { stat, descriptors } of looks) {
    counts.descriptors += descriptors.length;
    counts.sockets += descriptors.filter((to) => to.startsWith("socket:")).length;
    // The name in parentheses may hold anything.
    const state = STATES[stat.slice(stat.lastIndexOf(")") + 2, stat.lastIndexOf(")") + 3)];
    if (state) states[state]++;
  }
  const soft = /^Max open files\s+(\d+)/m.exec(limits)?.[1];
  return { ...counts, states, softNofile: soft === undefined ? undefined : BigInt(soft) };
}
