/** What a container uses, as containerd reads it: io.containerd.cgroups.v1.Metrics, or v2's where that is all there is. */
import {
  type CgroupDetail,
  type CgroupStats,
  type HostFacts,
  processesBelow,
  cgroupDirectories,
  readCgroupDetail,
  readCgroupStats,
} from "@berth/kernel";
import { cgroups1, cgroups2 } from "@berth/spec/shim";
import type { Any } from "@bufbuild/protobuf/wkt";
import { packMessage } from "../any.ts";

const NS_IN_US = 1_000n;
/** How the kernel shows a v1 limit that is none. */
const UNLIMITED_V1 = 0x7fff_ffff_ffff_f000n;
const UNLIMITED_V2 = 0xffff_ffff_ffff_ffffn;

export async function statsOf(cgroup: string, host: HostFacts): Promise<Any> {
  const [stats, detail] = await Promise.all([readCgroupStats(cgroup, host), readCgroupDetail(cgroup, host)]);
  if (host.cgroups.mode === "v2") return packStats(stats, detail);
  const pids = { current: stats.pids, limit: detail.pidsLimit ?? 0n };
  const swapLimit =
    stats.swapLimitBytes === undefined || stats.memoryLimitBytes === undefined
      ? UNLIMITED_V1
      : stats.memoryLimitBytes + stats.swapLimitBytes;
  return packMessage(cgroups1.MetricsSchema, {
    pids,
    cpu: {
      usage: { total: stats.cpuNs, user: detail.userNs, kernel: detail.systemNs },
      throttling: {
        periods: detail.periods,
        throttledPeriods: detail.throttledPeriods,
        throttledTime: detail.throttledNs,
      },
    },
    memory: {
      cache: detail.cacheBytes,
      totalCache: detail.cacheBytes,
      rss: stats.rssBytes,
      totalRss: stats.rssBytes,
      totalMappedFile: detail.mappedFileBytes,
      totalActiveFile: detail.activeFileBytes,
      totalInactiveFile: detail.inactiveFileBytes,
      totalPgFault: stats.pageFaults,
      totalPgMajFault: stats.majorPageFaults,
      usage: {
        usage: stats.memoryBytes,
        limit: stats.memoryLimitBytes ?? UNLIMITED_V1,
        max: detail.maxMemoryBytes ?? 0n,
        failcnt: detail.memoryFailures,
      },
      swap: { usage: stats.memoryBytes + stats.swapBytes, limit: swapLimit },
      kernel: { usage: detail.kernelBytes },
    },
    memoryOomControl: { oomKill: detail.oomKills },
    blkio: {
      ioServiceBytesRecursive: detail.io.flatMap((io) => entries(io, io.readBytes, io.writeBytes)),
      ioServicedRecursive: detail.io.flatMap((io) => entries(io, io.reads, io.writes)),
    },
    hugetlb: detail.hugepages.map(({ pageSize, bytes, maxBytes }) => ({
      pagesize: pageSize,
      usage: bytes,
      max: maxBytes ?? 0n,
    })),
  });
}

/** Of the second version. */
export function packStats(stats: CgroupStats, detail?: CgroupDetail): Any {
  const pids = { current: stats.pids, limit: detail?.pidsLimit ?? 0n };
  return packMessage(cgroups2.MetricsSchema, {
    pids,
    cpu: {
      usageUsec: stats.cpuNs / NS_IN_US,
      ...(detail && {
        userUsec: detail.userNs / NS_IN_US,
        systemUsec: detail.systemNs / NS_IN_US,
        nrPeriods: detail.periods,
        nrThrottled: detail.throttledPeriods,
        throttledUsec: detail.throttledNs / NS_IN_US,
      }),
    },
    memory: {
      usage: stats.memoryBytes,
      usageLimit: stats.memoryLimitBytes ?? UNLIMITED_V2,
      anon: stats.rssBytes,
      ...(detail && {
        maxUsage: detail.maxMemoryBytes ?? 0n,
        file: detail.cacheBytes,
        fileMapped: detail.mappedFileBytes,
        activeFile: detail.activeFileBytes,
        inactiveFile: detail.inactiveFileBytes,
      }),
      pgfault: stats.pageFaults,
      pgmajfault: stats.majorPageFaults,
      swapUsage: stats.swapBytes,
      swapLimit: stats.swapLimitBytes ?? UNLIMITED_V2,
    },
    ...(detail && {
      memoryEvents: { oomKill: detail.oomKills, max: detail.memoryFailures },
      io: {
        usage: detail.io.map(({ major, minor, readBytes, writeBytes, reads, writes }) => ({
          major: BigInt(major),
          minor: BigInt(minor),
          rbytes: readBytes,
          wbytes: writeBytes,
          rios: reads,
          wios: writes,
        })),
      },
      hugetlb: detail.hugepages.map(({ pageSize, bytes, maxBytes }) => ({
        pagesize: pageSize,
        current: bytes,
        max: maxBytes ?? 0n,
      })),
    }),
  });
}

const entries = ({ major, minor }: { major: number; minor: number }, read: bigint, write: bigint) =>
  (
    [
      ["Read", read],
      ["Write", write],
    ] as const
  ).map(([op, value]) => ({ op, major: BigInt(major), minor: BigInt(minor), value }));

/** Of the container's cgroup, in the host's PID namespace. */
export async function pidsOf(cgroup: string, host: HostFacts): Promise<number[]> {
  const { unified, v1 } = cgroupDirectories(cgroup, host.cgroups);
  return await processesBelow(unified ?? v1[0]?.directory ?? "");
}
