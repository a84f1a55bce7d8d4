/** What berth's own guest tells of itself as a whole, through its hand. */
import { O, type Order, OrderError } from "@berth/kernel";
import { VmError } from "../../errors.ts";
import { exposition } from "../../monitor/exposition.ts";
import { guestFamilies } from "../../monitor/guest.ts";
import type { Guest } from "../../sandbox/guest.ts";
import { believable } from "../believable.ts";
import { bootOf } from "./boot.ts";
import type { GuestTools, Usage, VolumeStats, VolumeUsage } from "../runtime.ts";

const ENOENT = 2;
const ROOT = 0;
const TIMEOUT_MS = 10_000;
const IPTABLES_MS = 30_000;
const ENV = { PATH: "/sbin:/usr/sbin:/bin:/usr/bin" };
const CGROUP2 = "/sys/fs/cgroup";

export const bosunTools = (guest: Guest): GuestTools => ({
  metrics: async () => exposition(await guestFamilies(guest.hand)),
  usage: async () => believable(await usage(guest)),
  boot: async () => believable(await bootOf(guest.hand)),
  readIptables: (v6) => iptables(guest, `/sbin/${v6 ? "ip6tables" : "iptables"}-save`),
  writeIptables: async (v6, rules) =>
    void (await iptables(guest, `/sbin/${v6 ? "ip6tables" : "iptables"}-restore`, rules)),
  setPolicy: () => Promise.resolve(),
  volumeStats: (path) => volumeStats(guest, path),
});

/** Six numbers of 64 bits. */
const FILE_SYSTEM_BYTES = 48;

async function volumeStats({ hand }: Guest, path: string): Promise<VolumeStats> {
  const outputs = await hand.run({ orders: [{ order: "file_system", args: { path } }] }, { timeoutMs: TIMEOUT_MS });
  const told = Uint8Array.from(outputs.get(0) ?? []);
  if (told.length !== FILE_SYSTEM_BYTES)
    throw new VmError("Guest", `the guest tells of a file system in ${told.length} bytes`);
  const numbers = new BigUint64Array(told.buffer);
  const [fragment = 0n, blocks = 0n, free = 0n, , inodes = 0n, freeInodes = 0n] = numbers;
  const usage = (unit: "bytes" | "inodes", total: bigint, available: bigint): VolumeUsage => ({
    unit,
    available,
    total,
    used: total - available,
  });
  return {
    // What root may still write, as Kata's agent has it.
    usage: believable([usage("bytes", blocks * fragment, free * fragment), usage("inodes", inodes, freeInodes)]),
    condition: { abnormal: false, message: "OK" },
  };
}

/** Of the cgroup that all containers' are in; none yet: nothing. */
async function usage({ hand }: Guest): Promise<Usage> {
  const files = ["/berth/cpu.stat", "/berth/memory.current"];
  const orders: Order[] = [
    { order: "open", args: { slot: ROOT, path: CGROUP2, flags: BigInt(O.PATH | O.DIRECTORY) } },
    ...files.map((path): Order => ({ order: "read_in", args: { root: ROOT, path, max: 1 << 14 } })),
  ];
  const outputs = await hand.run({ orders }, { timeoutMs: TIMEOUT_MS });
  const [cpu = "", memory = ""] = files.map((_, index) =>
    Buffer.from(outputs.get(index + 1) ?? new Uint8Array()).toString(),
  );
  return {
    cpuNs: BigInt(/^usage_usec (\d+)/m.exec(cpu)?.[1] ?? 0) * 1000n,
    memoryBytes: BigInt(/^\d+/.exec(memory)?.[0] ?? 0),
  };
}

/** Rejects with VmError. */
async function iptables({ hand }: Guest, program: string, stdin?: Uint8Array): Promise<Uint8Array> {
  try {
    const command = { argv: [program], env: ENV, ...(stdin && { stdin }) };
    const { status, stdout, stderr } = await hand.spawn(command, { timeoutMs: IPTABLES_MS });
    if (status === 0) return stdout;
    throw new VmError("Guest", `${program}: status ${status}: ${Buffer.from(stderr).toString().trim()}`);
  } catch (error) {
    if (!(error instanceof OrderError) || error.errno !== ENOENT) throw error;
    throw new VmError(
      "Unsupported",
      `the guest has no ${program}; a container of the pod with CAP_NET_ADMIN sets the pod's rules`,
      { cause: error },
    );
  }
}
