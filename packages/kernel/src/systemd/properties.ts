/** OCI resources as properties of a transient unit (systemd.resource-control(5)), for cgroup v1 and v2. */
import type { oci } from "@berth/spec";
import { cpuWeight } from "../cgroups/controllers/cpu.ts";
import { ioWeight } from "../cgroups/controllers/io.ts";
import { ResourceError } from "../cgroups/orders.ts";
import { maskOfList } from "../cpulist.ts";
import type { UnitProperty } from "./manager.ts";
import { unitDevices } from "./devices.ts";

/** "No limit" of systemd's 64-bit properties. */
const INFINITY = 0xffff_ffff_ffff_ffffn;
const DEFAULT_PERIOD = 100_000;
/** systemd keeps a quota as a share of a second, in steps of 10 ms. */
const QUOTA_STEP = 10_000n;
const MICROSECONDS = 1_000_000n;
/** Versions that brought a property. */
const SINCE = { collectMode: 236, cpuQuotaPeriod: 242, allowedCpus: 244, idleWeight: 252 } as const;

export interface PropertyContext {
  /** Of the cgroups: "v1" also where they are hybrid. */
  readonly version: "v1" | "v2";
  /** systemd's major version. */
  readonly systemd: number;
  /** The text of /proc/devices, by which systemd names groups of devices. */
  readonly devices: string;
}

const u64 = (name: string, value: bigint): UnitProperty => [name, { signature: "t", value }];
const flag = (name: string): UnitProperty => [name, { signature: "b", value: true }];
const text = (name: string, value: string): UnitProperty => [name, { signature: "s", value }];

/** Of the unit itself: its place, who is in it, and that its owner manages what is below. */
export function unitProperties(
  unit: string,
  slice: string,
  pids: readonly number[],
  { version, systemd }: PropertyContext,
): UnitProperty[] {
  const isSlice = unit.endsWith(".slice");
  return [
    text("Description", `berth container ${unit.replace(/\.(?:scope|slice)$/, "")}`),
    isSlice ? ["Wants", { signature: "as", value: [slice] }] : text("Slice", slice),
    ...(isSlice ? [] : [flag("Delegate")]),
    ...(pids.length === 0 ? [] : [["PIDs", { signature: "au", value: pids }] as const]),
    flag("MemoryAccounting"),
    flag("CPUAccounting"),
    flag(version === "v1" ? "BlockIOAccounting" : "IOAccounting"),
    flag("TasksAccounting"),
    // A unit whose last process was killed for memory would stay, failed, until somebody resets it.
    ...(systemd >= SINCE.collectMode ? [text("CollectMode", "inactive-or-failed")] : []),
    ["DefaultDependencies", { signature: "b", value: false }],
  ];
}

/** What the unit must say too, or systemd would set it back at its next reload. Throws ResourceError. */
export function resourceProperties(resources: oci.LinuxResources, context: PropertyContext): UnitProperty[] {
  return [
    ...unitDevices(resources.devices ?? [], context.devices),
    ...(context.version === "v1" ? memoryV1(resources.memory) : memoryV2(resources.memory)),
    ...cpu(resources.cpu, context),
    ...cpuset(resources.cpu, context),
    ...tasks(resources.pids?.limit),
    ...io(resources.blockIO?.weight, context),
    ...(context.version === "v2" ? unified(resources.unified ?? {}, context) : []),
  ];
}

function limit(value: number): bigint {
  return value < 0 ? INFINITY : BigInt(value);
}

function memoryV1(memory: oci.LinuxMemory = {}): UnitProperty[] {
  return memory.limit ? [u64("MemoryLimit", limit(memory.limit))] : [];
}

function memoryV2(memory: oci.LinuxMemory = {}): UnitProperty[] {
  const { limit: most, reservation, swap } = memory;
  const properties: UnitProperty[] = [];
  if (most) properties.push(u64("MemoryMax", limit(most)));
  if (reservation) properties.push(u64("MemoryLow", limit(reservation)));
  if (swap === -1 || (most === -1 && !swap)) properties.push(u64("MemorySwapMax", INFINITY));
  else if (swap && most && most > 0) {
    if (swap < most)
      throw new ResourceError(
        "linux.resources.memory.swap",
        `${swap} is memory and swap together and must not be below the memory limit ${most}`,
      );
    properties.push(u64("MemorySwapMax", BigInt(swap - most)));
  }
  return properties;
}

function cpu(wanted: oci.LinuxCPU = {}, { version, systemd }: PropertyContext): UnitProperty[] {
  const properties: UnitProperty[] = [];
  if (wanted.idle === 1 && version === "v2") {
    if (systemd >= SINCE.idleWeight) properties.push(u64("CPUWeight", 0n));
  } else if (wanted.shares) {
    properties.push(
      version === "v1" ? u64("CPUShares", BigInt(wanted.shares)) : u64("CPUWeight", BigInt(cpuWeight(wanted.shares))),
    );
  }
  return [...properties, ...quota(wanted.quota, wanted.period, systemd)];
}

/** A period without a quota is kept: the quota may come later. */
function quota(most: number | undefined, period: number | undefined, systemd: number): UnitProperty[] {
  const properties: UnitProperty[] = [];
  if (period && systemd >= SINCE.cpuQuotaPeriod) properties.push(u64("CPUQuotaPeriodUSec", BigInt(period)));
  if (!most && !period) return properties;
  return [...properties, u64("CPUQuotaPerSecUSec", quotaPerSecond(most, period))];
}

/** Rounded up to the step: down would give the container less than was asked for. */
export function quotaPerSecond(most: number | undefined, period: number | undefined): bigint {
  if (!most || most < 0) return INFINITY;
  const share = (BigInt(most) * MICROSECONDS) / BigInt(period || DEFAULT_PERIOD);
  return share % QUOTA_STEP === 0n ? share : (share / QUOTA_STEP + 1n) * QUOTA_STEP;
}

function cpuset({ cpus, mems }: oci.LinuxCPU = {}, { version, systemd }: PropertyContext): UnitProperty[] {
  if (version === "v1" || systemd < SINCE.allowedCpus) return [];
  const bits = (name: string, list: string | undefined, field: string): UnitProperty[] => {
    if (!list) return [];
    const mask = maskOfList(list);
    if (mask === undefined)
      throw new ResourceError(`linux.resources.cpu.${field}`, `${JSON.stringify(list)} is not a list, as in "0-3,7"`);
    return [[name, { signature: "ay", value: trimmed(mask) }]];
  };
  return [...bits("AllowedCPUs", cpus, "cpus"), ...bits("AllowedMemoryNodes", mems, "mems")];
}

function trimmed(mask: Uint8Array): Uint8Array {
  let size = mask.length;
  while (size > 1 && mask[size - 1] === 0) size--;
  return mask.subarray(0, size);
}

function tasks(most: number | undefined): UnitProperty[] {
  if (most === undefined) return [];
  return [u64("TasksMax", most < 0 ? INFINITY : BigInt(most === 0 ? 1 : most))];
}

function io(weight: number | undefined, { version }: PropertyContext): UnitProperty[] {
  if (!weight) return [];
  return [version === "v1" ? u64("BlockIOWeight", BigInt(weight)) : u64("IOWeight", BigInt(ioWeight(weight)))];
}

/** Those files of `unified` that have a property; the others are written to the cgroup alone. */
function unified(files: Readonly<Record<string, string>>, context: PropertyContext): UnitProperty[] {
  const amount = (value: string) => (value.trim() === "max" ? INFINITY : BigInt(value.trim()));
  return Object.entries(files).flatMap(([file, value]): UnitProperty[] => {
    switch (file) {
      case "cpu.max": {
        const [most, period = String(DEFAULT_PERIOD)] = value.trim().split(/\s+/);
        return quota(most === "max" ? -1 : Number(most), Number(period), context.systemd);
      }
      case "cpu.weight":
        return [u64("CPUWeight", amount(value))];
      case "cpu.idle":
        return value.trim() === "1" && context.systemd >= SINCE.idleWeight ? [u64("CPUWeight", 0n)] : [];
      case "cpuset.cpus":
        return cpuset({ cpus: value.trim() }, context);
      case "cpuset.mems":
        return cpuset({ mems: value.trim() }, context);
      case "memory.high":
        return [u64("MemoryHigh", amount(value))];
      case "memory.low":
        return [u64("MemoryLow", amount(value))];
      case "memory.min":
        return [u64("MemoryMin", amount(value))];
      case "memory.max":
        return [u64("MemoryMax", amount(value))];
      case "memory.swap.max":
        return [u64("MemorySwapMax", amount(value))];
      case "pids.max":
        return [u64("TasksMax", amount(value))];
      default:
        return [];
    }
  });
}
