/** What the agent tells of a container's cgroup, as the host's own cgroups tell it. */
import type { CgroupStats } from "@berth/kernel";
import { type agent, csi } from "@berth/spec/kata";
import type { VolumeStats, VolumeUsage } from "../guest/runtime.ts";

/** How v1 and v2 show that there is none, above which no limit can be one. */
const UNLIMITED = 1n << 62n;

const limitOf = (limit: bigint | undefined): bigint | undefined =>
  limit === undefined || limit === 0n || limit > UNLIMITED ? undefined : limit;

/** The kernel's names in v2, and in v1 where its own differ; 0 where it has neither. */
export function statsOfAgent({ cgroupStats }: agent.StatsContainerResponse): CgroupStats {
  const { cpuStats, memoryStats, pidsStats } = cgroupStats ?? {};
  const of = (...names: string[]): bigint =>
    names.map((name) => memoryStats?.stats[name]).find((value) => value !== undefined) ?? 0n;
  const used = memoryStats?.usage?.usage ?? 0n;
  const inactive = of("total_inactive_file", "inactive_file");
  const limit = limitOf(memoryStats?.usage?.limit);
  const swapLimit = limitOf(memoryStats?.swapUsage?.limit);
  return {
    cpuNs: cpuStats?.cpuUsage?.totalUsage ?? 0n,
    memoryBytes: used,
    workingSetBytes: used > inactive ? used - inactive : 0n,
    rssBytes: of("total_rss", "anon", "rss"),
    pageFaults: of("total_pgfault", "pgfault"),
    majorPageFaults: of("total_pgmajfault", "pgmajfault"),
    memoryLimitBytes: limit,
    swapBytes: memoryStats?.swapUsage?.usage ?? 0n,
    swapLimitBytes: swapLimit,
    pids: pidsStats?.current ?? 0n,
    pressure: undefined,
  };
}

const UNITS: Readonly<Partial<Record<csi.VolumeUsage_Unit, VolumeUsage["unit"]>>> = {
  [csi.VolumeUsage_Unit.BYTES]: "bytes",
  [csi.VolumeUsage_Unit.INODES]: "inodes",
};

export function volumeStatsOf({ usage, volumeCondition }: csi.VolumeStatsResponse): VolumeStats {
  const { abnormal = false, message = "" } = volumeCondition ?? {};
  return {
    usage: usage.flatMap(({ unit, available, total, used }) => {
      const name = UNITS[unit];
      return name ? [{ unit: name, available, total, used }] : [];
    }),
    condition: { abnormal, message },
  };
}
