/** Resources that a plugin asks for, field by field: each is one plugin's alone. */
import { create } from "@bufbuild/protobuf";
import {
  Field,
  type LinuxCPU,
  LinuxCPUSchema,
  type LinuxMemory,
  LinuxMemorySchema,
  type LinuxResources,
} from "@berth/spec/nri";
import type { Owners } from "./owners.ts";

const MEMORY = {
  limit: Field.MemLimit,
  reservation: Field.MemReservation,
  swap: Field.MemSwapLimit,
  kernel: Field.MemKernelLimit,
  kernelTcp: Field.MemTCPLimit,
  swappiness: Field.MemSwappiness,
  disableOomKiller: Field.MemDisableOomKiller,
  useHierarchy: Field.MemUseHierarchy,
} as const satisfies Partial<Record<keyof LinuxMemory, Field>>;

const CPU = {
  shares: Field.CPUShares,
  quota: Field.CPUQuota,
  period: Field.CPUPeriod,
  realtimeRuntime: Field.CPURealtimeRuntime,
  realtimePeriod: Field.CPURealtimePeriod,
  cpus: Field.CPUSetCPUs,
  mems: Field.CPUSetMems,
} as const satisfies Partial<Record<keyof LinuxCPU, Field>>;

/** What `asked` sets is put into each of `targets`. Throws Conflict. */
export function mergeResources(
  owners: Owners,
  container: string,
  plugin: string,
  asked: LinuxResources,
  targets: readonly LinuxResources[],
): void {
  const claim = (field: Field): void => owners.claim(container, field, plugin);
  const { memory, cpu } = asked;
  if (memory)
    take(
      memory,
      MEMORY,
      claim,
      targets.map((target) => (target.memory ??= create(LinuxMemorySchema))),
    );
  if (cpu)
    take(
      cpu,
      CPU,
      claim,
      targets.map((target) => (target.cpu ??= create(LinuxCPUSchema))),
    );
  for (const limit of asked.hugepageLimits) {
    owners.claimEntry(container, Field.HugepageLimits, limit.pageSize, plugin);
    for (const target of targets)
      target.hugepageLimits = [...target.hugepageLimits.filter(({ pageSize }) => pageSize !== limit.pageSize), limit];
  }
  for (const [name, value] of Object.entries(asked.unified)) {
    owners.claimEntry(container, Field.CgroupsUnified, name, plugin);
    for (const target of targets) target.unified[name] = value;
  }
  for (const target of targets) target.devices.push(...asked.devices);
  take(asked, { blockioClass: Field.BlockioClass, rdtClass: Field.RdtClass, pids: Field.PidsLimit }, claim, targets);
}

function take<T extends object>(
  asked: T,
  fields: Partial<Record<keyof T, Field>>,
  claim: (field: Field) => void,
  targets: readonly T[],
): void {
  for (const [name, field] of Object.entries(fields) as [keyof T, Field][]) {
    const value = asked[name];
    if (value === undefined || value === "") continue;
    claim(field);
    for (const target of targets) target[name] = value;
  }
}
