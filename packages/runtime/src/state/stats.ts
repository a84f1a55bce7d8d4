/** What a container has used, in the shape of runc's `events` (types/events.go of runc; cgroup-v1 and cgroup-v2.rst). */
import { readdirSync, readFileSync } from "node:fs";
import { join } from "node:path";
import { isMissing, type ContainerRecord } from "./record.ts";

type Json = Record<string, unknown>;

/** Nanoseconds in a tick of cpuacct.stat (USER_HZ is 100 wherever Linux runs Node). */
const NS_PER_TICK = 10_000_000;
const NS_PER_US = 1000;
const UNLIMITED = 18_446_744_073_709_551_615n;

export function containerStats(record: ContainerRecord): Json {
  const { cgroup_paths: paths } = record;
  const unified = paths[""];
  return {
    cpu: paths.cpuacct !== undefined || unified === undefined ? cpuV1(paths) : cpuV2(unified),
    cpuset: cpuset(paths.cpuset ?? unified),
    memory: paths.memory !== undefined ? memoryV1(paths.memory) : memoryV2(unified),
    pids: pids(paths.pids ?? unified),
    blkio: paths.blkio !== undefined ? blkioV1(paths.blkio) : blkioV2(unified),
    hugetlb: hugetlb(paths.hugetlb, unified),
    intel_rdt: {},
    network_interfaces: null,
  };
}

function cpuV1(paths: ContainerRecord["cgroup_paths"]): Json {
  const stat = keyed(paths.cpuacct, "cpuacct.stat");
  const throttling = keyed(paths.cpu, "cpu.stat");
  return {
    usage: {
      total: single(paths.cpuacct, "cpuacct.usage"),
      percpu: (text(paths.cpuacct, "cpuacct.usage_percpu") ?? "").trim().split(/\s+/).filter(Boolean).map(Number),
      kernel: (stat.system ?? 0) * NS_PER_TICK,
      user: (stat.user ?? 0) * NS_PER_TICK,
    },
    throttling: nonZero({
      periods: throttling.nr_periods,
      throttledPeriods: throttling.nr_throttled,
      throttledTime: throttling.throttled_time,
    }),
  };
}

function cpuV2(directory: string): Json {
  const stat = keyed(directory, "cpu.stat");
  return {
    usage: {
      total: (stat.usage_usec ?? 0) * NS_PER_US,
      kernel: (stat.system_usec ?? 0) * NS_PER_US,
      user: (stat.user_usec ?? 0) * NS_PER_US,
    },
    throttling: nonZero({
      periods: stat.nr_periods,
      throttledPeriods: stat.nr_throttled,
      throttledTime: (stat.throttled_usec ?? 0) * NS_PER_US,
    }),
  };
}

function cpuset(directory: string | undefined): Json {
  const list = (file: string) => ranges(text(directory, file)?.trim() ?? "");
  const flag = (file: string) => single(directory, file);
  return nonZero({
    cpus: list("cpuset.cpus"),
    cpu_exclusive: flag("cpuset.cpu_exclusive"),
    mems: list("cpuset.mems"),
    mem_exclusive: flag("cpuset.mem_exclusive"),
    memory_migrate: flag("cpuset.memory_migrate"),
    sched_load_balance: flag("cpuset.sched_load_balance"),
    sched_relax_domain_level: flag("cpuset.sched_relax_domain_level"),
  });
}

/** "0-2,4" as [0, 1, 2, 4]. */
function ranges(list: string): number[] | undefined {
  if (list === "") return undefined;
  return list.split(",").flatMap((part) => {
    const [first = 0, last = first] = part.split("-").map(Number);
    return Array.from({ length: last - first + 1 }, (_unused, index) => first + index);
  });
}

function memoryV1(directory: string): Json {
  const raw = keyed(directory, "memory.stat");
  const entry = (name: string) =>
    nonZero({
      limit: single(directory, `memory.${name}limit_in_bytes`) ?? 0,
      usage: single(directory, `memory.${name}usage_in_bytes`),
      max: single(directory, `memory.${name}max_usage_in_bytes`),
      failcnt: single(directory, `memory.${name}failcnt`),
    });
  return {
    ...nonZero({ cache: raw.cache }),
    usage: entry(""),
    swap: entry("memsw."),
    kernel: entry("kmem."),
    kernelTCP: entry("kmem.tcp."),
    raw,
  };
}

function memoryV2(directory: string | undefined): Json {
  const raw = keyed(directory, "memory.stat");
  const events = keyed(directory, "memory.events");
  const entry = (name: string) =>
    nonZero({
      limit: single(directory, `memory.${name}max`) ?? 0,
      usage: single(directory, `memory.${name}current`),
      max: single(directory, `memory.${name}peak`),
    });
  return {
    ...nonZero({ cache: raw.file }),
    usage: { ...entry(""), ...nonZero({ failcnt: events.max }) },
    swap: entry("swap."),
    kernel: {},
    kernelTCP: {},
    raw,
    ...psi(directory, "memory"),
  };
}

function psi(directory: string | undefined, resource: string): Json {
  const lines = text(directory, `${resource}.pressure`);
  if (lines === undefined) return {};
  const parsed = lines
    .trim()
    .split("\n")
    .map((line) => {
      const [kind = "", ...pairs] = line.split(" ");
      return [
        kind,
        Object.fromEntries(pairs.map((pair) => pair.split("=")).map(([key = "", value]) => [key, Number(value)])),
      ];
    });
  return { psi: Object.fromEntries(parsed) as Json };
}

function pids(directory: string | undefined): Json {
  return nonZero({ current: single(directory, "pids.current"), limit: limitOf(directory, "pids.max") });
}

function limitOf(directory: string | undefined, file: string): number | undefined {
  const value = text(directory, file)?.trim();
  return value === undefined || value === "max" ? undefined : Number(value);
}

const BLKIO_FILES: Readonly<Record<string, string>> = {
  ioServiceBytesRecursive: "blkio.throttle.io_service_bytes_recursive",
  ioServicedRecursive: "blkio.throttle.io_serviced_recursive",
};

function blkioV1(directory: string): Json {
  return Object.fromEntries(
    Object.entries(BLKIO_FILES).map(([name, file]) => [
      name,
      (text(directory, file) ?? "").split("\n").flatMap((line) => {
        const match = /^(\d+):(\d+) (\w+) (\d+)$/.exec(line);
        return match === null
          ? []
          : [{ major: Number(match[1]), minor: Number(match[2]), op: match[3], value: Number(match[4]) }];
      }),
    ]),
  );
}

/** io.stat's keys, as the operations that v1 has for them. */
const IO_KEYS: Readonly<Record<string, readonly [list: string, op: string]>> = {
  rbytes: ["ioServiceBytesRecursive", "Read"],
  wbytes: ["ioServiceBytesRecursive", "Write"],
  rios: ["ioServicedRecursive", "Read"],
  wios: ["ioServicedRecursive", "Write"],
};

function blkioV2(directory: string | undefined): Json {
  const lists: Record<string, unknown[]> = { ioServiceBytesRecursive: [], ioServicedRecursive: [] };
  for (const line of (text(directory, "io.stat") ?? "").split("\n")) {
    const [device = "", ...pairs] = line.split(" ");
    const [major, minor] = device.split(":").map(Number);
    for (const pair of pairs) {
      const [key = "", value] = pair.split("=");
      const known = IO_KEYS[key];
      if (known !== undefined) lists[known[0]]?.push({ major, minor, op: known[1], value: Number(value) });
    }
  }
  return lists;
}

function hugetlb(v1: string | undefined, v2: string | undefined): Json {
  const directory = v1 ?? v2;
  if (directory === undefined) return {};
  const current = v1 === undefined ? "current" : "usage_in_bytes";
  const sizes = new Set(entries(directory).flatMap((name) => /^hugetlb\.(\d+[KMG]B)\./.exec(name)?.[1] ?? []));
  return Object.fromEntries(
    [...sizes].map((size) => [
      size,
      nonZero({
        usage: single(directory, `hugetlb.${size}.${current}`),
        max: single(directory, `hugetlb.${size}.max_usage_in_bytes`),
        failcnt: single(directory, `hugetlb.${size}.failcnt`) ?? 0,
      }),
    ]),
  );
}

/** How often the kernel has killed a process of the cgroup for memory. */
export function oomKills(record: ContainerRecord): number {
  const { memory, "": unified } = record.cgroup_paths;
  const counts = memory !== undefined ? keyed(memory, "memory.oom_control") : keyed(unified, "memory.events");
  return counts.oom_kill ?? 0;
}

/** As Go leaves out what is empty. */
function nonZero(values: Json): Json {
  return Object.fromEntries(
    Object.entries(values).filter(
      ([key, value]) => value !== undefined && (value !== 0 || key === "limit" || key === "failcnt"),
    ),
  );
}

function single(directory: string | undefined, file: string): number | bigint | undefined {
  const value = text(directory, file)?.trim();
  if (value === undefined) return undefined;
  if (value === "max") return UNLIMITED;
  const number = Number(value);
  return Number.isSafeInteger(number) ? number : BigInt(value);
}

function keyed(directory: string | undefined, file: string): Record<string, number> {
  const values: Record<string, number> = {};
  for (const line of (text(directory, file) ?? "").split("\n")) {
    const [key, value] = line.split(" ");
    if (key !== undefined && value !== undefined && /^\d+$/.test(value)) values[key] = Number(value);
  }
  return values;
}

function text(directory: string | undefined, file: string): string | undefined {
  if (directory === undefined) return undefined;
  try {
    return readFileSync(join(directory, file), "utf8");
  } catch (error) {
    // EOPNOTSUPP, EINVAL: a file that this kernel or controller has only in part.
    const { code } = error as NodeJS.ErrnoException;
    if (isMissing(error) || code === "ENODEV" || code === "ENOTSUP" || code === "EOPNOTSUPP" || code === "EINVAL")
      return undefined;
    throw error;
  }
}

function entries(directory: string): string[] {
  try {
    return readdirSync(directory);
  } catch (error) {
    if (isMissing(error)) return [];
    throw error;
  }
}
