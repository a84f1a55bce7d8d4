/** Numbers of a cgroup as the CRI's messages. */
import { create, type MessageInitShape } from "@bufbuild/protobuf";
import type { CgroupStats, InterfaceUsage, Pressure, Stall } from "@berth/kernel";
import { cri } from "@berth/spec";
import { cpuRate } from "./cpu-rate.ts";

export interface CgroupUsage {
  readonly cpu: cri.CpuUsage;
  readonly memory: cri.MemoryUsage;
  readonly swap: cri.SwapUsage;
  readonly io: cri.IoUsage | undefined;
}

/** `owner`: whose usage it is, so that the rate since the last look can be told. */
export function usageOf(stats: CgroupStats, timestamp: bigint, owner: object): CgroupUsage {
  const rate = cpuRate(owner, stats.cpuNs, timestamp);
  const { pressure } = stats;
  return {
    cpu: create(cri.CpuUsageSchema, {
      timestamp,
      usageCoreNanoSeconds: { value: stats.cpuNs },
      usageNanoCores: rate === undefined ? undefined : { value: rate },
      psi: psiOf(pressure?.cpu),
    }),
    memory: create(cri.MemoryUsageSchema, {
      timestamp,
      workingSetBytes: { value: stats.workingSetBytes },
      availableBytes: available(stats.memoryLimitBytes, stats.workingSetBytes),
      usageBytes: { value: stats.memoryBytes },
      rssBytes: { value: stats.rssBytes },
      pageFaults: { value: stats.pageFaults },
      majorPageFaults: { value: stats.majorPageFaults },
      psi: psiOf(pressure?.memory),
    }),
    swap: create(cri.SwapUsageSchema, {
      timestamp,
      swapUsageBytes: { value: stats.swapBytes },
      swapAvailableBytes: available(stats.swapLimitBytes, stats.swapBytes),
    }),
    io: pressure && create(cri.IoUsageSchema, { timestamp, psi: psiOf(pressure.io) }),
  };
}

/** Absent where there is no limit. */
const available = (limit: bigint | undefined, used: bigint): { value: bigint } | undefined =>
  limit === undefined ? undefined : { value: limit > used ? limit - used : 0n };

const psiOf = (pressure: Pressure | undefined): MessageInitShape<typeof cri.PsiStatsSchema> | undefined =>
  pressure && { Full: stallOf(pressure.full), Some: stallOf(pressure.some) };

/** Nanoseconds, as the kubelet's summary and cAdvisor's metrics count them; the kernel says microseconds. */
const stallOf = ({ totalUs, avg10, avg60, avg300 }: Stall): MessageInitShape<typeof cri.PsiDataSchema> => ({
  Total: totalUs * 1000n,
  Avg10: avg10,
  Avg60: avg60,
  Avg300: avg300,
});

/** The CNI's interface, which every pod has. */
const DEFAULT_INTERFACE = "eth0";

export function networkOf(interfaces: readonly InterfaceUsage[], timestamp: bigint): cri.NetworkUsage {
  const all = interfaces.map((one) =>
    create(cri.NetworkInterfaceUsageSchema, {
      name: one.name,
      rxBytes: { value: one.rxBytes },
      rxErrors: { value: one.rxErrors },
      txBytes: { value: one.txBytes },
      txErrors: { value: one.txErrors },
    }),
  );
  return create(cri.NetworkUsageSchema, {
    timestamp,
    defaultInterface: all.find(({ name }) => name === DEFAULT_INTERFACE),
    interfaces: all.filter(({ name }) => name !== DEFAULT_INTERFACE),
  });
}
