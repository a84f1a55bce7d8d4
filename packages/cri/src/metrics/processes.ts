/** What the processes of a container hold, counted in /proc (cAdvisor's "process" and "task state" metrics). */
import { readFile, readdir, readlink } from "node:fs/promises";
import {
  cgroupDirectories,
  type HostFacts,
  type ProcessLook,
  type ProcessTally,
  processesBelow,
  tallyProcesses,
} from "@berth/kernel";
import type { ContainerRecord } from "../store/records.ts";

export async function countProcesses(record: ContainerRecord, host: HostFacts): Promise<ProcessTally> {
  const { unified, v1 } = cgroupDirectories(record.cgroupPath, host.cgroups);
  const pids = await processesBelow(unified ?? v1[0]?.directory ?? "");
  const [looks, limits] = await Promise.all([
    Promise.all(pids.map((pid) => look(pid).catch(goneAs(undefined)))),
    record.pid > 0 ? readFile(`/proc/${record.pid}/limits`, "latin1").catch(goneAs("")) : "",
  ]);
  return tallyProcesses(
    looks.filter((one) => one !== undefined),
    limits,
  );
}

async function look(pid: number): Promise<ProcessLook> {
  const [stat, descriptors] = await Promise.all([readFile(`/proc/${pid}/stat`, "latin1"), readdir(`/proc/${pid}/fd`)]);
  const targets = await Promise.all(descriptors.map((fd) => readlink(`/proc/${pid}/fd/${fd}`).catch(goneAs(""))));
  return { stat, descriptors: targets };
}

/** Processes come and go while they are counted. */
const goneAs =
  <T>(value: T) =>
  (error: NodeJS.ErrnoException): T => {
    if (error.code === "ENOENT" || error.code === "ESRCH") return value;
    throw error;
  };
