/** What a container's cgroup in its guest has used: its files are read there in one plan, and understood here like the host's own. */
import { mkdir, mkdtemp, rm, writeFile } from "node:fs/promises";
import { dirname, join } from "node:path";
import {
  type CgroupDetail,
  type CgroupStats,
  type HostFacts,
  O,
  type Order,
  OrderError,
  type Outputs,
  readCgroupDetail,
  readCgroupStats,
} from "@berth/kernel";
import { believable } from "../believable.ts";
import type { Guest } from "../../sandbox/guest.ts";

const FILES = [
  "cpu.stat",
  "memory.current",
  "memory.stat",
  "memory.max",
  "memory.swap.current",
  "memory.swap.max",
  "pids.current",
  "cpu.pressure",
  "memory.pressure",
  "io.pressure",
] as const;
const ROOT = 0;
const MAX_TEXT = 1 << 16;
const ENOENT = 2;
const TIMEOUT_MS = 10_000;

/** `scratch`: a directory of the container's, on a file system in memory. Undefined: the cgroup is gone. */
export async function cgroupStats(guest: Guest, scratch: string, cgroup: string): Promise<CgroupStats | undefined> {
  const files = await cgroupFiles(guest, cgroup, FILES);
  return files && (await understood(guest.facts, scratch, cgroup, files, readCgroupStats));
}

const DETAILED = ["cpu.stat", "memory.stat", "memory.events", "memory.peak", "pids.max", "io.stat", "cgroup.procs"];

export interface CgroupLook {
  readonly detail: CgroupDetail;
  /** Of its processes, in the guest. */
  readonly pids: readonly number[];
}

/** As cgroupStats, of what monitoring asks beyond it. */
export async function cgroupDetail(guest: Guest, scratch: string, cgroup: string): Promise<CgroupLook | undefined> {
  const files = await cgroupFiles(guest, cgroup, DETAILED);
  if (!files) return undefined;
  const detail = await understood(guest.facts, scratch, cgroup, files, readCgroupDetail);
  const procs = Buffer.from(files.get("cgroup.procs") ?? new Uint8Array()).toString();
  return { detail, pids: procs.split("\n").filter(Boolean).map(Number) };
}

async function cgroupFiles(
  { hand, facts }: Guest,
  cgroup: string,
  names: readonly string[],
): Promise<ReadonlyMap<string, Uint8Array | undefined> | undefined> {
  const mountpoint = facts.cgroups.unified?.mountpoint ?? "/sys/fs/cgroup";
  const orders: Order[] = [
    { order: "open", args: { slot: ROOT, path: `${mountpoint}${cgroup}`, flags: BigInt(O.PATH | O.DIRECTORY) } },
    ...names.map((path): Order => ({ order: "read_in", args: { root: ROOT, path: `/${path}`, max: MAX_TEXT } })),
  ];
  let outputs: Outputs;
  try {
    outputs = await hand.run({ orders }, { timeoutMs: TIMEOUT_MS });
  } catch (error) {
    if (error instanceof OrderError && error.errno === ENOENT) return undefined;
    throw error;
  }
  return new Map(names.map((name, index) => [name, outputs.get(index + 1)]));
}

async function understood<T>(
  facts: HostFacts,
  scratch: string,
  cgroup: string,
  files: ReadonlyMap<string, Uint8Array | undefined>,
  read: (path: string, host: HostFacts) => Promise<T>,
): Promise<T> {
  const mountpoint = await mkdtemp(join(scratch, "stats-"));
  try {
    for (const [name, data] of files) {
      if (data === undefined) continue;
      const path = join(mountpoint, cgroup, name);
      await mkdir(dirname(path), { recursive: true });
      await writeFile(path, data);
    }
    const unified = { mountpoint, controllers: facts.cgroups.unified?.controllers ?? [] };
    return believable(await read(cgroup, { ...facts, cgroups: { ...facts.cgroups, unified } }));
  } finally {
    await rm(mountpoint, { recursive: true, force: true });
  }
}
