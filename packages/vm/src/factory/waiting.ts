/** Machines that wait for a pod, of every berthd that has its machines in one place: by their directories. */
import { readRecord } from "@berth/kernel";
import { namesIn } from "../names-in.ts";
import { programDirectory } from "../sandbox/host.ts";
import { readState } from "../sandbox/launch.ts";
import { makerOf } from "./names.ts";

export interface Waiting {
  /** Of the berthd that has it. */
  readonly maker: number;
  /** Of its hypervisor. */
  readonly pid: number;
  readonly vcpus: number;
  readonly mib: number;
}

export async function listWaiting(machines: string): Promise<Waiting[]> {
  const found: Waiting[] = [];
  for (const name of await namesIn(machines)) {
    const maker = makerOf(name);
    if (maker?.purpose !== "vmc") continue;
    const state = await readState(`${machines}/${name}`);
    const record = await readRecord(programDirectory(`${machines}/${name}`, "hypervisor"));
    // Without its machine it is not ready.
    if (!state?.machine || record?.phase !== "running") continue;
    const { vcpus, memory } = state.machine;
    found.push({ maker: maker.pid, pid: record.pid, vcpus, mib: memory.mib });
  }
  return found;
}
