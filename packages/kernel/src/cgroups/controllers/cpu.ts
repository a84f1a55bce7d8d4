/** cpu: shares, quota, burst, idle and (v1) real-time. Times in microseconds (sched-bwc.rst, cgroup-v2.rst "CPU"). */
import type { oci } from "@berth/spec";
import type { Order } from "../../orders/plan.ts";
import { ResourceError, settings, writeOrder, type Settings } from "../orders.ts";

const FIELD = "linux.resources.cpu";
/** The kernel's default of cpu.max and cpu.cfs_period_us. */
export const DEFAULT_PERIOD = 100_000;

export function cpuV1(cpu: oci.LinuxCPU, directory: string): Settings {
  const orders: Order[] = [];
  const write = (file: string, value: number, field: string) =>
    orders.push(writeOrder(directory, file, value, `${FIELD}.${field}`));
  if (cpu.shares) write("cpu.shares", checkedShares(cpu.shares), "shares");
  if (cpu.idle !== undefined) write("cpu.idle", cpu.idle, "idle");
  // No period may be below the runtime of before: it is taken away first.
  if (cpu.realtimePeriod && cpu.realtimeRuntime) write("cpu.rt_runtime_us", 0, "realtimeRuntime");
  if (cpu.realtimePeriod) write("cpu.rt_period_us", cpu.realtimePeriod, "realtimePeriod");
  if (cpu.realtimeRuntime) write("cpu.rt_runtime_us", cpu.realtimeRuntime, "realtimeRuntime");
  // A burst above the quota is refused, as is a period that would push an old quota over the parent's: so both are
  // lifted before they are set.
  if (cpu.burst !== undefined) write("cpu.cfs_burst_us", 0, "burst");
  if (cpu.period && cpu.quota) write("cpu.cfs_quota_us", -1, "quota");
  if (cpu.period) write("cpu.cfs_period_us", cpu.period, "period");
  if (cpu.quota) write("cpu.cfs_quota_us", cpu.quota < 0 ? -1 : cpu.quota, "quota");
  if (cpu.burst) write("cpu.cfs_burst_us", cpu.burst, "burst");
  return settings(orders);
}

/** The kernel would quietly take the nearest it has: who asks for another one is told. */
function checkedShares(shares: number): number {
  if (shares < 2) throw new ResourceError(`${FIELD}.shares`, `${shares} is below 2, the least there is`);
  if (shares > 262_144) throw new ResourceError(`${FIELD}.shares`, `${shares} is above 262144, the most there is`);
  return shares;
}

export function cpuV2(cpu: oci.LinuxCPU, directory: string): Settings {
  const orders: Order[] = [];
  const warnings: string[] = [];
  const write = (file: string, value: number | string, field: string) =>
    orders.push(writeOrder(directory, file, value, `${FIELD}.${field}`));
  // cpu.weight cannot be written while cpu.idle is 1, and setting idle resets it.
  if (cpu.idle !== undefined) write("cpu.idle", cpu.idle, "idle");
  if (cpu.shares && cpu.idle !== 1) write("cpu.weight", cpuWeight(cpu.shares), "shares");
  if (cpu.burst !== undefined) write("cpu.max.burst", 0, "burst");
  if (cpu.quota || cpu.period) write("cpu.max", cpuMax(cpu), cpu.quota ? "quota" : "period");
  if (cpu.burst) write("cpu.max.burst", cpu.burst, "burst");
  if (cpu.realtimePeriod || cpu.realtimeRuntime)
    warnings.push(`${FIELD}.realtimeRuntime: not applied: cgroup v2 has no real-time limits`);
  return settings(orders, warnings);
}

function cpuMax(cpu: oci.LinuxCPU): string {
  const quota = cpu.quota !== undefined && cpu.quota > 0 ? String(cpu.quota) : "max";
  return `${quota} ${cpu.period || DEFAULT_PERIOD}`;
}

/**
 * cgroup v1 shares (2 to 262144, default 1024) as a v2 weight (1 to 10000, default 100). The curve that runtimes agreed
 * on in 2025 goes through all three points: log10(weight) = (l² + 125 l) / 612 - 7/34, with l = log2(shares).
 */
export function cpuWeight(shares: number): number {
  if (shares < 0) throw new ResourceError(`${FIELD}.shares`, `${shares} is negative`);
  if (shares <= 2) return 1;
  if (shares >= 262_144) return 10_000;
  const l = Math.log2(shares);
  return Math.ceil(10 ** ((l * l + 125 * l) / 612 - 7 / 34));
}
