/** What berth's own guest is told before its first container: what every machine is told, and what is of its pod. */
import { randomBytes } from "node:crypto";
import type { Order } from "@berth/kernel";
import type { VmSettings } from "../configuration/settings.ts";
import type { Machine } from "../hypervisor/machine.ts";
import { nineOptions } from "../storage/nine.ts";
import { GUEST_CONTAINERS, GUEST_ROOTS, GUEST_SHARE, GUEST_SHM, ROOTS_TAG } from "./host.ts";

const MS_NOSUID_NODEV_NOEXEC = 0xen;
const NANOSECONDS = 1_000_000n;
const SEED_BYTES = 64;
const PCI_RESCAN = "/sys/bus/pci/rescan";

/** What a machine must not have in common with another, or with its template. */
export const identityOrders = (): Order[] => [
  { order: "reseed_rng", args: { data: randomBytes(SEED_BYTES) } },
  { order: "set_clock", args: { time: BigInt(Date.now()) * NANOSECONDS } },
];

/** Devices that have come: they are on the bus, and nobody has told the guest. */
export const rescanOrder: Order = {
  order: "write_file",
  args: { path: PCI_RESCAN, data: Buffer.from("1") },
};

const directory = (path: string): Order => ({ order: "mkdir", args: { path, mode: 0o755, existOk: 1, parents: 1 } });

/** Its shares, and where its containers will be. */
export function shareMounts({ shares, nine }: Machine, settings: VmSettings): Order[] {
  const mounted = (source: string, target: string, fstype: string, data: string): Order[] => [
    directory(target),
    { order: "mount", args: { source, target, fstype, flags: 0n, data } },
  ];
  return [
    ...shares.flatMap(({ tag }) => mounted(tag, tag === ROOTS_TAG ? GUEST_ROOTS : GUEST_SHARE, "virtiofs", "")),
    ...(nine ? mounted(nine.tag, GUEST_SHARE, "9p", nineOptions(settings)) : []),
    directory(GUEST_CONTAINERS),
  ];
}

/** Such an order is the pod's own wish. */
export const SYSCTL = "sysctl ";

export interface PodWords {
  readonly hostname: string;
  /** Bytes of /dev/shm. */
  readonly shmSize: number;
  /** By name with dots. */
  readonly sysctls: Readonly<Record<string, string>>;
}

export const podOrders = ({ hostname, shmSize, sysctls }: PodWords): Order[] => [
  directory(GUEST_SHM),
  {
    order: "mount",
    args: {
      source: "shm",
      target: GUEST_SHM,
      fstype: "tmpfs",
      flags: MS_NOSUID_NODEV_NOEXEC,
      data: `mode=1777,size=${shmSize}`,
    },
  },
  ...(hostname === "" ? [] : [{ order: "hostname", args: { hostname, domainname: "" } } as const]),
  ...Object.entries(sysctls).map(([name, value]): Order => ({
    order: "write_file",
    args: { path: `/proc/sys/${name.replaceAll(".", "/")}`, data: Buffer.from(value) },
    because: `${SYSCTL}${name}`,
  })),
];
