/** The answer of a shim's Stats, as what berth reads from a cgroup itself. */
import type { CgroupStats } from "@berth/kernel";
import { cgroups1, cgroups2 } from "@berth/spec/shim";
import type { Any } from "@bufbuild/protobuf/wkt";
import { unpackMessage } from "../any.ts";

/** Above this a v1 limit is none: the largest multiple of a page is what the kernel shows. */
const UNLIMITED = 1n << 62n;
const NS_IN_US = 1_000n;

/** Undefined: it is neither version's. */
export function statsOf(any: Any | undefined): CgroupStats | undefined {
  const v1 = unpackMessage(any, cgroups1.MetricsSchema);
  if (v1) return ofVersion1(v1);
  const v2 = unpackMessage(any, cgroups2.MetricsSchema);
  return v2 && ofVersion2(v2);
}

const limited = (limit: bigint | undefined): bigint | undefined =>
  limit === undefined || limit === 0n || limit >= UNLIMITED ? undefined : limit;
/** Differences of figures that were not read at one moment. */
const positive = (value: bigint): bigint => (value > 0n ? value : 0n);

function ofVersion1({ cpu, memory, pids }: cgroups1.Metrics): CgroupStats {
  const usage = memory?.usage?.usage ?? 0n;
  const limit = limited(memory?.usage?.limit);
  const both = limited(memory?.swap?.limit);
  return {
    cpuNs: cpu?.usage?.total ?? 0n,
    memoryBytes: usage,
    workingSetBytes: positive(usage - (memory?.totalInactiveFile ?? 0n)),
    rssBytes: memory?.totalRss ?? 0n,
    pageFaults: memory?.totalPgFault ?? 0n,
    majorPageFaults: memory?.totalPgMajFault ?? 0n,
    memoryLimitBytes: limit,
    // v1 counts memory and swap together.
    swapBytes: positive((memory?.swap?.usage ?? usage) - usage),
    swapLimitBytes: both === undefined || limit === undefined ? undefined : positive(both - limit),
    pids: pids?.current ?? 0n,
    pressure: undefined,
  };
}

function ofVersion2({ cpu, memory, pids }: cgroups2.Metrics): CgroupStats {
  return {
    cpuNs: (cpu?.usageUsec ?? 0n) * NS_IN_US,
    memoryBytes: memory?.usage ?? 0n,
    workingSetBytes: positive((memory?.usage ?? 0n) - (memory?.inactiveFile ?? 0n)),
    rssBytes: memory?.anon ?? 0n,
    pageFaults: memory?.pgfault ?? 0n,
    majorPageFaults: memory?.pgmajfault ?? 0n,
    memoryLimitBytes: limited(memory?.usageLimit),
    swapBytes: memory?.swapUsage ?? 0n,
    swapLimitBytes: limited(memory?.swapLimit),
    pids: pids?.current ?? 0n,
    pressure: undefined,
  };
}
