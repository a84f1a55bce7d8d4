/** What a container's cgroup in its guest has used: its files are read there in one plan, and understood here like the host's own. */
import { mkdir, mkdtemp, rm, writeFile } from "node:fs/promises";
import { dirname, join } from "node:path";
import { type CgroupStats, type HostFacts, O, type Order, OrderError, readCgroupStats } from "@berth/kernel";
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
  const mountpoint = guest.facts.cgroups.unified?.mountpoint ?? "/sys/fs/cgroup";
  const orders: Order[] = [
    { order: "open", args: { slot: ROOT, path: `${mountpoint}${cgroup}`, flags: BigInt(O.PATH | O.DIRECTORY) } },
    ...FILES.map((path): Order => ({ order: "read_in", args: { root: ROOT, path: `/${path}`, max: MAX_TEXT } })),
  ];
  try {
    const outputs = await guest.hand.run({ orders }, { timeoutMs: TIMEOUT_MS });
    return await understood(
      guest.facts,
      scratch,
      cgroup,
      new Map(FILES.map((name, index) => [name, outputs.get(index + 1)])),
    );
  } catch (error) {
    if (error instanceof OrderError && error.errno === ENOENT) return undefined;
    throw error;
  }
}

async function understood(
  facts: HostFacts,
  scratch: string,
  cgroup: string,
  files: ReadonlyMap<string, Uint8Array | undefined>,
): Promise<CgroupStats> {
  const mountpoint = await mkdtemp(join(scratch, "stats-"));
  try {
    for (const [name, data] of files) {
      if (data === undefined) continue;
      const path = join(mountpoint, cgroup, name);
      await mkdir(dirname(path), { recursive: true });
      await writeFile(path, data);
    }
    const unified = { mountpoint, controllers: facts.cgroups.unified?.controllers ?? [] };
    return await readCgroupStats(cgroup, { ...facts, cgroups: { ...facts.cgroups, unified } });
  } finally {
    await rm(mountpoint, { recursive: true, force: true });
  }
}
