/** What containers use, between two looks. */
import type { cri } from "@berth/spec";
import { containerName } from "./names.ts";

export interface Sample {
  readonly id: string;
  readonly name: string;
  /** Nanoseconds since the epoch. */
  readonly timestamp: bigint;
  readonly cpuNanoseconds: bigint | null;
  /** Billionths of a CPU, where the server measures by itself. */
  readonly nanoCores: bigint | null;
  readonly memoryWorkingSet: bigint | null;
  readonly memoryUsage: bigint | null;
  readonly memoryAvailable: bigint | null;
  readonly writableLayer: bigint | null;
}

export function sampleOf({ attributes, cpu, memory, writableLayer }: cri.ContainerStats): Sample {
  const { id = "", labels = {}, metadata } = attributes ?? {};
  return {
    id,
    name: containerName({ labels, metadata }),
    timestamp: cpu?.timestamp ?? 0n,
    cpuNanoseconds: cpu?.usageCoreNanoSeconds?.value ?? null,
    nanoCores: cpu?.usageNanoCores?.value ?? null,
    memoryWorkingSet: memory?.workingSetBytes?.value ?? null,
    memoryUsage: memory?.usageBytes?.value ?? null,
    memoryAvailable: memory?.availableBytes?.value ?? null,
    writableLayer: writableLayer?.usedBytes?.value ?? null,
  };
}

/** Of one CPU, between two samples; the server's own figure where they do not tell. null: not known. */
export function cpuPercent(now: Sample, before: Sample | undefined): number | null {
  const used = (now.cpuNanoseconds ?? 0n) - (before?.cpuNanoseconds ?? now.cpuNanoseconds ?? 0n);
  const passed = now.timestamp - (before?.timestamp ?? now.timestamp);
  // The same container anew, or a clock set back, gives no difference to speak of.
  if (passed > 0n && used >= 0n && now.cpuNanoseconds !== null) return (Number(used) / Number(passed)) * 100;
  return now.nanoCores === null ? null : Number(now.nanoCores) / 1e7;
}
