/** What a guest says of itself, as Kata's agent tells it: all files in one plan, and one more where it has disks. */
import { type Hand, O, type Order, parseMountInfo } from "@berth/kernel";
import type { Family, Sample } from "./exposition.ts";
import { family, items, single } from "./families.ts";
import {
  cpuSamples,
  diskSamples,
  loadItems,
  meminfoItems,
  netdevSamples,
  numbers,
  parseStat,
  statusItems,
} from "./proc.ts";

const TIMEOUT_MS = 10_000;
const MAX_TEXT = 1 << 18;
const PAGE = 4096;
/** Clock ticks in a second. */
const TICKS = 100;
const ROOT = 0;

const FILES = [
  "loadavg",
  "meminfo",
  "vmstat",
  "stat",
  "diskstats",
  "1/net/dev",
  "1/stat",
  "1/status",
  "1/io",
  "1/mountinfo",
] as const;

/** Of the guest and of its PID 1, which stands in the agent's place. Rejects with OrderError where it does not answer. */
export async function guestFamilies(hand: Hand): Promise<Family[]> {
  const orders: Order[] = [
    { order: "open", args: { slot: ROOT, path: "/proc", flags: BigInt(O.PATH | O.DIRECTORY) } },
    ...FILES.map((path): Order => ({ order: "read_in", args: { root: ROOT, path: `/${path}`, max: MAX_TEXT } })),
  ];
  const outputs = await hand.run({ orders }, { timeoutMs: TIMEOUT_MS });
  const text = (name: (typeof FILES)[number]): string =>
    Buffer.from(outputs.get(FILES.indexOf(name) + 1) ?? new Uint8Array()).toString();
  const { load, tasks } = loadItems(text("loadavg"));
  const stat = parseStat(text("1/stat"));
  return [
    family("kata_guest_load", items(load)),
    family("kata_guest_tasks", items(tasks)),
    family("kata_guest_meminfo", items(meminfoItems(text("meminfo")))),
    family("kata_guest_vm_stat", items(numbers(text("vmstat"), (own) => own))),
    family("kata_guest_cpu_time", cpuSamples(text("stat"))),
    family("kata_guest_diskstat", diskSamples(text("diskstats"))),
    family("kata_guest_netdev_stat", netdevSamples(text("1/net/dev"))),
    ...(await fileSystems(hand, text("1/mountinfo"))),
    single("kata_agent_threads", stat.threads),
    single("kata_agent_total_time", ((stat.times["utime"] ?? 0) + (stat.times["stime"] ?? 0)) / TICKS),
    single("kata_agent_total_vm", stat.virtual),
    single("kata_agent_total_rss", stat.resident * PAGE),
    family("kata_agent_proc_stat", items(stat.times)),
    family("kata_agent_proc_status", items(statusItems(text("1/status"), 1))),
    family("kata_agent_io_stat", items(numbers(text("1/io"), (own) => own))),
  ];
}

/** On disks, and written to; others' use never changes. */
const REAL = new Set(["ext4", "xfs", "btrfs", "vfat", "overlay"]);

async function fileSystems(hand: Hand, mountinfo: string): Promise<Family[]> {
  const seen = new Set<string>();
  const mounts = parseMountInfo(mountinfo).filter(({ fstype, superOptions, device }) => {
    if (!REAL.has(fstype) || superOptions.includes("ro") || seen.has(device)) return false;
    seen.add(device);
    return true;
  });
  if (mounts.length === 0) return [];
  const orders = mounts.map(({ target }): Order => ({ order: "file_system", args: { path: target } }));
  const outputs = await hand.run({ orders }, { timeoutMs: TIMEOUT_MS });
  const bytes: Sample[] = [];
  const inodes: Sample[] = [];
  for (const [index, { target, source, device }] of mounts.entries()) {
    const numbersOf = outputs.get(index);
    if (numbersOf === undefined) continue;
    const view = new DataView(numbersOf.buffer, numbersOf.byteOffset, numbersOf.byteLength);
    const [size = 0, blocks = 0, free = 0, , files = 0, freeFiles = 0] = Array.from({ length: 6 }, (_, at) =>
      Number(view.getBigUint64(at * 8, true)),
    );
    const labels = { mount: target, device: source.split("/").at(-1) || device };
    bytes.push(...items({ total: blocks * size, used: (blocks - free) * size, available: free * size }, labels));
    inodes.push(...items({ total: files, used: files - freeFiles, available: freeFiles }, labels));
  }
  return [family("kata_guest_filesystem_bytes", bytes), family("kata_guest_filesystem_inodes", inodes)];
}
