/** What a cgroup has used, for the CRI's statistics. */
import { accessSync } from "node:fs";
import { join } from "node:path";
import type { HostFacts } from "../host.ts";
import { readCgroupFile } from "./file.ts";
import { cgroupDirectories, v1Directory } from "./hierarchy.ts";
import { readPressure, type CgroupPressure } from "./pressure.ts";

/** 0 where the machine has no controller that counts it. */
export interface CgroupStats {
  /** Nanoseconds of CPU time since the cgroup was made. */
  readonly cpuNs: bigint;
  readonly memoryBytes: bigint;
  /** Memory without the file pages that can go first: what the kubelet evicts by. */
  readonly workingSetBytes: bigint;
  readonly rssBytes: bigint;
  readonly pageFaults: bigint;
  readonly majorPageFaults: bigint;
  /** Undefined: no limit. */
  readonly memoryLimitBytes: bigint | undefined;
  /** Swap alone, without memory. */
  readonly swapBytes: bigint;
  /** Undefined: no limit of its own. */
  readonly swapLimitBytes: bigint | undefined;
  /** Processes and threads now. */
  readonly pids: bigint;
  /** Undefined where the kernel has no pressure stall information of cgroups (it needs cgroup2). */
  readonly pressure: CgroupPressure | undefined;
}

type MemoryStats = Omit<CgroupStats, "cpuNs" | "pids" | "pressure">;

const NO_MEMORY: MemoryStats = {
  memoryBytes: 0n,
  workingSetBytes: 0n,
  rssBytes: 0n,
  pageFaults: 0n,
  majorPageFaults: 0n,
  memoryLimitBytes: undefined,
  swapBytes: 0n,
  swapLimitBytes: undefined,
};
/** v1's "no limit" is the largest page-aligned 63-bit number. */
const V1_UNLIMITED = 0x7fff_ffff_ffff_f000n;

/** Rejects with ENOENT where the cgroup is gone. */
export async function readCgroupStats(path: string, host: HostFacts): Promise<CgroupStats> {
  const directories = cgroupDirectories(path, host.cgroups);
  const controllers = host.cgroups.unified?.controllers ?? [];
  const v2 = (controller: string) => (controllers.includes(controller) ? directories.unified : undefined);
  const cpuacct = v1Directory(directories, "cpuacct");
  const memory = v1Directory(directories, "memory");
  const pids = v1Directory(directories, "pids") ?? v2("pids");
  // Without any of the controllers a cgroup that is gone must not look like an idle one.
  accessSync(directories.unified ?? directories.v1[0]?.directory ?? "");
  const [cpuNs, memoryStats, current, pressure] = await Promise.all([
    cpuacct !== undefined ? number(join(cpuacct, "cpuacct.usage")) : v2Usage(v2("cpu")),
    memory !== undefined ? memoryV1(memory, host.cgroups.swap) : memoryV2(v2("memory")),
    pids === undefined ? 0n : number(join(pids, "pids.current")),
    readPressure(directories.unified),
  ]);
  return { cpuNs, ...memoryStats, pids: current, pressure };
}

async function v2Usage(directory: string | undefined): Promise<bigint> {
  if (directory === undefined) return 0n;
  const [microseconds] = await values(join(directory, "cpu.stat"), ["usage_usec"]);
  return microseconds * 1000n;
}

async function memoryV1(directory: string, swap: boolean): Promise<MemoryStats> {
  const keys = ["total_inactive_file", "total_rss", "total_pgfault", "total_pgmajfault", "total_swap"] as const;
  const [usage, [inactive, rss, faults, major, swapped], limit, total] = await Promise.all([
    number(join(directory, "memory.usage_in_bytes")),
    values(join(directory, "memory.stat"), keys),
    number(join(directory, "memory.limit_in_bytes")),
    swap ? number(join(directory, "memory.memsw.limit_in_bytes")) : V1_UNLIMITED,
  ]);
  return {
    memoryBytes: usage,
    workingSetBytes: usage > inactive ? usage - inactive : 0n,
    rssBytes: rss,
    pageFaults: faults,
    majorPageFaults: major,
    memoryLimitBytes: limit >= V1_UNLIMITED ? undefined : limit,
    swapBytes: swapped,
    // v1 limits memory and swap together.
    swapLimitBytes: total >= V1_UNLIMITED || limit >= V1_UNLIMITED ? undefined : total - limit,
  };
}

async function memoryV2(directory: string | undefined): Promise<MemoryStats> {
  if (directory === undefined) return NO_MEMORY;
  const keys = ["inactive_file", "anon", "pgfault", "pgmajfault"] as const;
  const [usage, [inactive, rss, faults, major], limit, swap, swapLimit] = await Promise.all([
    number(join(directory, "memory.current")),
    values(join(directory, "memory.stat"), keys),
    limitIn(join(directory, "memory.max")),
    number(join(directory, "memory.swap.current")).catch(absentAs(0n)),
    limitIn(join(directory, "memory.swap.max")).catch(absentAs(undefined)),
  ]);
  return {
    memoryBytes: usage,
    workingSetBytes: usage > inactive ? usage - inactive : 0n,
    rssBytes: rss,
    pageFaults: faults,
    majorPageFaults: major,
    memoryLimitBytes: limit,
    swapBytes: swap,
    swapLimitBytes: swapLimit,
  };
}

export async function number(file: string): Promise<bigint> {
  return BigInt((await readCgroupFile(file)).trim());
}

/** A v2 limit; "max" is none. */
export async function limitIn(file: string): Promise<bigint | undefined> {
  const text = (await readCgroupFile(file)).trim();
  return text === "max" ? undefined : BigInt(text);
}

/** For files that only some kernels and configurations have. */
export const absentAs =
  <T>(value: T) =>
  (error: NodeJS.ErrnoException): T => {
    if (error.code === "ENOENT" || error.code === "EOPNOTSUPP") return value;
    throw error;
  };

/** Of "key value" lines those of the keys, in their order; 0 for one that is not there. A twentieth of what `keyed` takes of memory.stat. */
async function values<const K extends readonly string[]>(
  file: string,
  keys: K,
): Promise<{ readonly [I in keyof K]: bigint }> {
  const text = `\n${await readCgroupFile(file)}`;
  return keys.map((key) => {
    const before = `\n${key} `;
    const at = text.indexOf(before);
    if (at < 0) return 0n;
    const from = at + before.length;
    const end = text.indexOf("\n", from);
    return BigInt(text.slice(from, end < 0 ? undefined : end));
  }) as { readonly [I in keyof K]: bigint };
}

/** "key value" lines. */
export async function keyed(file: string): Promise<Map<string, bigint>> {
  const entries = new Map<string, bigint>();
  for (const line of (await readCgroupFile(file)).split("\n")) {
    const [key, value] = line.split(" ");
    if (key !== undefined && value !== undefined && /^\d+$/.test(value)) entries.set(key, BigInt(value));
  }
  return entries;
}
