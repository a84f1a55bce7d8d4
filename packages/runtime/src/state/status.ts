/** What a container is doing now, from the kernel: nothing of it is ever written down. */
import { existsSync, readFileSync } from "node:fs";
import type { oci } from "@berth/spec";
import { isFrozen } from "./freezer.ts";
import { isMissing, type ContainerRecord, type StateDirectory } from "./record.ts";

export type Status = "created" | "running" | "paused" | "stopped";

export function statusOf(record: ContainerRecord, states: StateDirectory): Status {
  if (isFrozen(record)) return "paused";
  if (!isAlive(record)) return "stopped";
  return existsSync(states.fifo(record.id)) ? "created" : "running";
}

/** Whether the container's own process is there: not a zombie, and not another one with its number. */
export function isAlive({ init_process_pid: pid, init_process_start: start }: ContainerRecord): boolean {
  const found = processStart(pid);
  return found !== undefined && found === start;
}

/** Field 22 of /proc/PID/stat; undefined for a process that is gone or a zombie. */
export function processStart(pid: number): number | undefined {
  if (pid <= 0) return undefined;
  let text: string;
  try {
    text = readFileSync(`/proc/${pid}/stat`, "utf8");
  } catch (error) {
    if (isMissing(error) || (error as NodeJS.ErrnoException).code === "ESRCH") return undefined;
    throw error;
  }
  const fields = text.slice(text.lastIndexOf(")") + 2).split(" ");
  return fields[0] === "Z" || fields[0] === "X" ? undefined : Number(fields[19]);
}

/** As hooks get it and `state` begins (runtime.md, "State"). */
export function ociState(record: ContainerRecord, status: oci.State["status"]): oci.State {
  const { annotations, ociVersion } = record.berth.spec;
  return {
    ociVersion,
    id: record.id,
    status,
    ...(status === "stopped" ? {} : { pid: record.init_process_pid }),
    bundle: record.berth.bundle,
    ...(annotations === undefined || Object.keys(annotations).length === 0 ? {} : { annotations }),
  };
}
