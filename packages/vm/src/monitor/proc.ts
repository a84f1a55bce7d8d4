/** Files of /proc (proc(5)), the node's and a guest's alike, as Kata's metrics have them. */
import type { Sample } from "./exposition.ts";
import { items } from "./families.ts";

type Values = Record<string, number>;

const STATUS = [
  "VmPeak",
  "VmSize",
  "VmLck",
  "VmPin",
  "VmHWM",
  "VmRSS",
  "RssAnon",
  "RssFile",
  "RssShmem",
  "VmData",
  "VmStk",
  "VmExe",
  "VmLib",
  "VmPTE",
  "VmSwap",
  "HugetlbPages",
  "voluntary_ctxt_switches",
  "nonvoluntary_ctxt_switches",
];

/** `unit`: what a kB of the file counts as: Kata's programs on the node tell bytes, its agent kibibytes. */
export function statusItems(text: string, unit: 1024 | 1): Values {
  const lines = new Map(text.split("\n").map((line) => [line.slice(0, line.indexOf(":")), line]));
  return Object.fromEntries(
    STATUS.flatMap((name) => {
      const [, number, kB] = /:\s+(\d+)( kB)?/.exec(lines.get(name) ?? "") ?? [];
      return number === undefined ? [] : [[name.toLowerCase(), Number(number) * (kB ? unit : 1)]];
    }),
  );
}

export interface Stat {
  /** Clock ticks: utime, stime, cutime, cstime. */
  readonly times: Values;
  readonly threads: number;
  /** Bytes. */
  readonly virtual: number;
  /** Pages. */
  readonly resident: number;
}

export function parseStat(text: string): Stat {
  // Behind the name, which may have anything in it: state is field 3.
  const fields = text.slice(text.lastIndexOf(")") + 2).split(" ");
  const at = (number: number): number => Number(fields[number - 3] ?? 0);
  return {
    times: { utime: at(14), stime: at(15), cutime: at(16), cstime: at(17) },
    threads: at(20),
    virtual: at(23),
    resident: at(24),
  };
}

/** "name: number" lines; `name`: how Kata spells it. */
export function numbers(text: string, name: (own: string) => string | undefined): Values {
  return Object.fromEntries(
    text.split("\n").flatMap((line) => {
      const [, own = "", number] = /^(\S+?):?\s+(\d+)/.exec(line) ?? [];
      const key = number === undefined ? undefined : name(own);
      return key === undefined ? [] : [[key, Number(number)]];
    }),
  );
}

const RECEIVED = ["bytes", "packets", "errs", "drop", "fifo", "frame", "compressed", "multicast"];
const SENT = ["bytes", "packets", "errs", "drop", "fifo", "colls", "carrier", "compressed"];

/** /proc/net/dev. */
export function netdevSamples(text: string): Sample[] {
  return text.split("\n").flatMap((line) => {
    const [, name, rest = ""] = /^\s*(\S+?):\s*(.*)$/.exec(line) ?? [];
    if (name === undefined) return [];
    const values = rest.split(/\s+/).map(Number);
    const keys = [...RECEIVED.map((key) => `recv_${key}`), ...SENT.map((key) => `sent_${key}`)];
    return items(Object.fromEntries(keys.map((key, index) => [key, values[index] ?? 0])), { interface: name });
  });
}

const DISK = [
  "reads",
  "merged",
  "sectors_read",
  "time_reading",
  "writes",
  "writes_merged",
  "sectors_written",
  "time_writing",
  "in_progress",
  "time_in_progress",
  "weighted_time_in_progress",
  "discards",
  "discards_merged",
  "sectors_discarded",
  "time_discarding",
  "flushes",
  "time_flushing",
];

/** /proc/diskstats; kernels before 5.5 have not all of it. */
export function diskSamples(text: string): Sample[] {
  return text.split("\n").flatMap((line) => {
    const [, , name, ...values] = line.trim().split(/\s+/);
    if (name === undefined) return [];
    const known = DISK.slice(0, values.length).map((key, index): [string, number] => [key, Number(values[index])]);
    return items(Object.fromEntries(known), { disk: name });
  });
}

const CPU = ["user", "nice", "system", "idle", "iowait", "irq", "softirq", "steal", "guest", "guest_nice"];
/** A clock tick is 10 ms, as /proc shows times on every machine that Linux runs on today. */
const TICK_MS = 10;

/** /proc/stat, in milliseconds. */
export function cpuSamples(text: string): Sample[] {
  return text.split("\n").flatMap((line) => {
    const [, number, rest = ""] = /^cpu(\d*)\s+(.*)$/.exec(line) ?? [];
    if (number === undefined) return [];
    const values = rest.trim().split(" ").map(Number);
    const cpu = number === "" ? "total" : number;
    return items(Object.fromEntries(CPU.map((key, index) => [key, (values[index] ?? 0) * TICK_MS])), { cpu });
  });
}

/** Where a word in lower case does not say how Kata's agent spells it. */
const MEMINFO: Readonly<Record<string, string>> = {
  MemTotal: "mem_total",
  MemFree: "mem_free",
  MemAvailable: "mem_available",
  SwapCached: "swap_cached",
  "Active(anon)": "active_anon",
  "Inactive(anon)": "inactive_anon",
  "Active(file)": "active_file",
  "Inactive(file)": "inactive_file",
  SwapTotal: "swap_total",
  SwapFree: "swap_free",
  AnonPages: "anon_pages",
  SReclaimable: "s_reclaimable",
  SUnreclaim: "s_unreclaim",
  KReclaimable: "k_reclaimable",
  KernelStack: "kernel_stack",
  PageTables: "page_tables",
  NFS_Unstable: "nfs_unstable",
  WritebackTmp: "writeback_tmp",
  CommitLimit: "commit_limit",
  Committed_AS: "committed_as",
  VmallocTotal: "vmalloc_total",
  VmallocUsed: "vmalloc_used",
  VmallocChunk: "vmalloc_chunk",
  HardwareCorrupted: "hardware_corrupted",
  AnonHugePages: "anon_hugepages",
  ShmemHugePages: "shmem_hugepages",
  ShmemPmdMapped: "shmem_pmd_mapped",
  CmaTotal: "cma_total",
  CmaFree: "cma_free",
  HugePages_Total: "hugepages_total",
  HugePages_Free: "hugepages_free",
  HugePages_Rsvd: "hugepages_rsvd",
  HugePages_Surp: "hugepages_surp",
  DirectMap4k: "direct_map_4k",
  DirectMap2M: "direct_map_2M",
  DirectMap4M: "direct_map_4M",
  DirectMap1G: "direct_map_1G",
  Percpu: "per_cpu",
};

/** /proc/meminfo, in bytes; counts of huge pages as they are. */
export function meminfoItems(text: string): Values {
  return Object.fromEntries(
    text.split("\n").flatMap((line) => {
      const [, name = "", number, kB] = /^(\S+):\s+(\d+)( kB)?/.exec(line) ?? [];
      if (number === undefined) return [];
      return [[MEMINFO[name] ?? name.toLowerCase(), Number(number) * (kB ? 1024 : 1)]];
    }),
  );
}

/** /proc/loadavg. */
export function loadItems(text: string): { readonly load: Values; readonly tasks: Values } {
  const [load1, load5, load15, tasks = ""] = text.trim().split(" ");
  const [cur, max] = tasks.split("/");
  return {
    load: { load1: Number(load1), load5: Number(load5), load15: Number(load15) },
    tasks: { cur: Number(cur), max: Number(max) },
  };
}
