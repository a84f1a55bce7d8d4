/** What monitoring asks of a cgroup beyond CgroupStats: the numbers behind cAdvisor's metrics. */
import { readdir } from "node:fs/promises";
import { join } from "node:path";
import type { HostFacts } from "../host.ts";
import { readCgroupFile } from "./file.ts";
import { cgroupDirectories, v1Directory } from "./hierarchy.ts";
import { absentAs, keyed, limitIn, number } from "./stats.ts";

export interface CgroupDetail {
  readonly userNs: bigint;
  readonly systemNs: bigint;
  /** Of the CPU quota: enforcement periods, those in which it was hit, and nanoseconds waited. */
  readonly periods: bigint;
  readonly throttledPeriods: bigint;
  readonly throttledNs: bigint;
  readonly cacheBytes: bigint;
  readonly mappedFileBytes: bigint;
  readonly activeFileBytes: bigint;
  readonly inactiveFileBytes: bigint;
  readonly kernelBytes: bigint;
  /** How often the memory limit was hit. */
  readonly memoryFailures: bigint;
  /** Undefined where the kernel keeps no high-water mark (v2 before 5.19). */
  readonly maxMemoryBytes: bigint | undefined;
  readonly oomKills: bigint;
  /** Undefined: no limit. */
  readonly pidsLimit: bigint | undefined;
  readonly io: readonly DeviceIo[];
  readonly hugepages: readonly HugepageUsage[];
}

export interface DeviceIo {
  readonly major: number;
  readonly minor: number;
  readonly readBytes: bigint;
  readonly writeBytes: bigint;
  readonly reads: bigint;
  readonly writes: bigint;
}

export interface HugepageUsage {
  /** As the kernel names it: "2MB". */
  readonly pageSize: string;
  readonly bytes: bigint;
  readonly maxBytes: bigint | undefined;
}

type Cpu = Pick<CgroupDetail, "userNs" | "systemNs" | "periods" | "throttledPeriods" | "throttledNs">;
type Memory = Pick<
  CgroupDetail,
  | "cacheBytes"
  | "mappedFileBytes"
  | "activeFileBytes"
  | "inactiveFileBytes"
  | "kernelBytes"
  | "memoryFailures"
  | "maxMemoryBytes"
  | "oomKills"
>;

const NO_MEMORY: Memory = {
  cacheBytes: 0n,
  mappedFileBytes: 0n,
  activeFileBytes: 0n,
  inactiveFileBytes: 0n,
  kernelBytes: 0n,
  memoryFailures: 0n,
  maxMemoryBytes: undefined,
  oomKills: 0n,
};
/** USER_HZ, in which cpuacct.stat counts: 100 on every architecture that Node runs on. */
const TICK_NS = 10_000_000n;

/** Rejects with ENOENT where the cgroup is gone. */
export async function readCgroupDetail(path: string, host: HostFacts): Promise<CgroupDetail> {
  const directories = cgroupDirectories(path, host.cgroups);
  const controllers = host.cgroups.unified?.controllers ?? [];
  const v1 = (controller: string) => v1Directory(directories, controller);
  const v2 = (controller: string) => (controllers.includes(controller) ? directories.unified : undefined);
  const [cpu, memory, pidsLimit, io, hugepages] = await Promise.all([
    v1("cpu") === undefined && v1("cpuacct") === undefined ? cpuV2(v2("cpu")) : cpuV1(v1("cpu"), v1("cpuacct")),
    v1("memory") === undefined ? memoryV2(v2("memory")) : memoryV1(v1("memory") ?? ""),
    limitOf(v1("pids") ?? v2("pids")),
    v1("blkio") === undefined ? ioV2(v2("io")) : ioV1(v1("blkio") ?? ""),
    hugetlb(v1("hugetlb"), v2("hugetlb"), directories.unified),
  ]);
  return { ...cpu, ...memory, pidsLimit, io, hugepages };
}

async function cpuV1(cpu: string | undefined, cpuacct: string | undefined): Promise<Cpu> {
  const [stat, ticks] = await Promise.all([
    cpu === undefined ? new Map<string, bigint>() : keyed(join(cpu, "cpu.stat")),
    cpuacct === undefined ? new Map<string, bigint>() : keyed(join(cpuacct, "cpuacct.stat")),
  ]);
  return {
    userNs: (ticks.get("user") ?? 0n) * TICK_NS,
    systemNs: (ticks.get("system") ?? 0n) * TICK_NS,
    periods: stat.get("nr_periods") ?? 0n,
    throttledPeriods: stat.get("nr_throttled") ?? 0n,
    throttledNs: stat.get("throttled_time") ?? 0n,
  };
}

async function cpuV2(directory: string | undefined): Promise<Cpu> {
  const stat = directory === undefined ? new Map<string, bigint>() : await keyed(join(directory, "cpu.stat"));
  return {
    userNs: (stat.get("user_usec") ?? 0n) * 1000n,
    systemNs: (stat.get("system_usec") ?? 0n) * 1000n,
    periods: stat.get("nr_periods") ?? 0n,
    throttledPeriods: stat.get("nr_throttled") ?? 0n,
    throttledNs: (stat.get("throttled_usec") ?? 0n) * 1000n,
  };
}

async function memoryV1(directory: string): Promise<Memory> {
  const [stat, failures, max, kernel, oom] = await Promise.all([
    keyed(join(directory, "memory.stat")),
    number(join(directory, "memory.failcnt")),
    number(join(directory, "memory.max_usage_in_bytes")),
    number(join(directory, "memory.kmem.usage_in_bytes")).catch(absentAs(0n)),
    keyed(join(directory, "memory.oom_control")),
  ]);
  return {
    cacheBytes: stat.get("total_cache") ?? 0n,
    mappedFileBytes: stat.get("total_mapped_file") ?? 0n,
    activeFileBytes: stat.get("total_active_file") ?? 0n,
    inactiveFileBytes: stat.get("total_inactive_file") ?? 0n,
    kernelBytes: kernel,
    memoryFailures: failures,
    maxMemoryBytes: max,
    oomKills: oom.get("oom_kill") ?? 0n,
  };
}

async function memoryV2(directory: string | undefined): Promise<Memory> {
  if (directory === undefined) return NO_MEMORY;
  const [stat, events, peak] = await Promise.all([
    keyed(join(directory, "memory.stat")),
    keyed(join(directory, "memory.events")),
    number(join(directory, "memory.peak")).catch(absentAs(undefined)),
  ]);
  return {
    cacheBytes: stat.get("file") ?? 0n,
    mappedFileBytes: stat.get("file_mapped") ?? 0n,
    activeFileBytes: stat.get("active_file") ?? 0n,
    inactiveFileBytes: stat.get("inactive_file") ?? 0n,
    kernelBytes: stat.get("kernel") ?? 0n,
    memoryFailures: events.get("max") ?? 0n,
    maxMemoryBytes: peak,
    oomKills: events.get("oom_kill") ?? 0n,
  };
}

const limitOf = async (directory: string | undefined): Promise<bigint | undefined> =>
  directory === undefined ? undefined : await limitIn(join(directory, "pids.max"));

/** "8:0 rbytes=1 wbytes=2 rios=3 wios=4 …" */
async function ioV2(directory: string | undefined): Promise<DeviceIo[]> {
  if (directory === undefined) return [];
  const text = await readCgroupFile(join(directory, "io.stat"));
  return text.split("\n").flatMap((line) => {
    const [, major, minor, rest = ""] = /^(\d+):(\d+) (.*)$/.exec(line) ?? [];
    if (major === undefined || minor === undefined) return [];
    const field = (name: string): bigint => BigInt(new RegExp(`\\b${name}=(\\d+)`).exec(rest)?.[1] ?? 0);
    const [readBytes, writeBytes] = [field("rbytes"), field("wbytes")];
    return [
      {
        major: Number(major),
        minor: Number(minor),
        readBytes,
        writeBytes,
        reads: field("rios"),
        writes: field("wios"),
      },
    ];
  });
}

async function ioV1(directory: string): Promise<DeviceIo[]> {
  const read = async (file: string): Promise<Map<string, bigint>> => {
    const found = new Map<string, bigint>();
    for (const line of (await readCgroupFile(join(directory, file))).split("\n")) {
      const [device, operation, value] = line.split(" ");
      if (device !== undefined && operation !== undefined && value !== undefined)
        found.set(`${device} ${operation}`, BigInt(value));
    }
    return found;
  };
  const [bytes, operations] = await Promise.all([
    read("blkio.throttle.io_service_bytes_recursive").catch(absentAs(new Map<string, bigint>())),
    read("blkio.throttle.io_serviced_recursive").catch(absentAs(new Map<string, bigint>())),
  ]);
  const devices = new Set([...bytes.keys()].map((key) => key.split(" ", 1)[0] ?? ""));
  return [...devices].map((device) => {
    const [major, minor] = device.split(":").map(Number);
    return {
      major: major ?? 0,
      minor: minor ?? 0,
      readBytes: bytes.get(`${device} Read`) ?? 0n,
      writeBytes: bytes.get(`${device} Write`) ?? 0n,
      reads: operations.get(`${device} Read`) ?? 0n,
      writes: operations.get(`${device} Write`) ?? 0n,
    };
  });
}

async function hugetlb(
  v1: string | undefined,
  v2: string | undefined,
  unified: string | undefined,
): Promise<HugepageUsage[]> {
  const directory = v1 ?? (v2 === undefined ? undefined : unified);
  if (directory === undefined) return [];
  return await Promise.all(
    (await pageSizes()).map(async (pageSize) => ({
      pageSize,
      bytes: await number(
        join(directory, `hugetlb.${pageSize}.${v1 === undefined ? "current" : "usage_in_bytes"}`),
      ).catch(absentAs(0n)),
      maxBytes:
        v1 === undefined
          ? undefined
          : await number(join(directory, `hugetlb.${pageSize}.max_usage_in_bytes`)).catch(absentAs(undefined)),
    })),
  );
}

let sizes: Promise<string[]> | undefined;

/** The machine's huge page sizes as the controllers name them: they do not change while it runs. */
function pageSizes(): Promise<string[]> {
  return (sizes ??= (async () => {
    const names = await readdir("/sys/kernel/mm/hugepages").catch(absentAs<string[]>([]));
    return names.map((name) => sizeName(Number(/(\d+)kB/.exec(name)?.[1] ?? 0)));
  })());
}

const sizeName = (kib: number): string =>
  kib >= 1 << 20 ? `${kib >> 20}GB` : kib >= 1 << 10 ? `${kib >> 10}MB` : `${kib}KB`;
