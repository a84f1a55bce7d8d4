/** The limits that plugins set on a container that is being made. */
import type { LinuxResources } from "@berth/spec/nri";
import type { oci } from "@berth/spec/oci";
import { exact } from "./enums.ts";

/** Throws for a class of block I/O: berth reads no files that say what one is. */
export function adjustResources(before: oci.LinuxResources, asked: LinuxResources | undefined): oci.LinuxResources {
  if (!asked) return before;
  if (asked.blockioClass && asked.blockioClass.value !== "")
    throw new Error(`linux.resources.blockio_class: "${asked.blockioClass.value}": berth reads no blockio classes`);
  const cpu = { ...before.cpu, ...cpuOf(asked) };
  const memory = { ...before.memory, ...memoryOf(asked) };
  const sizes = new Set(asked.hugepageLimits.map(({ pageSize }) => pageSize));
  const hugepageLimits = [
    ...(before.hugepageLimits ?? []).filter(({ pageSize }) => !sizes.has(pageSize)),
    ...asked.hugepageLimits.map(({ pageSize, limit }) => ({ pageSize, limit: exact(limit) })),
  ];
  const unified = { ...before.unified, ...asked.unified };
  return {
    ...before,
    devices: [...(before.devices ?? []), ...asked.devices.map(ruleOf)],
    ...(Object.keys(cpu).length > 0 && { cpu }),
    ...(Object.keys(memory).length > 0 && { memory }),
    ...(hugepageLimits.length > 0 && { hugepageLimits }),
    ...(Object.keys(unified).length > 0 && { unified }),
    ...(asked.pids && { pids: { limit: Number(asked.pids.limit) } }),
    ...(asked.blockioClass && { blockIO: undefined }),
  };
}

const ruleOf = ({ allow, type, major, minor, access }: LinuxResources["devices"][number]): oci.LinuxDeviceCgroup => ({
  allow,
  ...(type !== "" && { type }),
  ...(major && { major: Number(major.value) }),
  ...(minor && { minor: Number(minor.value) }),
  ...(access !== "" && { access }),
});

function cpuOf({ cpu }: LinuxResources): oci.LinuxCPU {
  if (!cpu) return {};
  return {
    ...(cpu.shares && { shares: Number(cpu.shares.value) }),
    ...(cpu.quota && { quota: Number(cpu.quota.value) }),
    ...(cpu.period && { period: Number(cpu.period.value) }),
    ...(cpu.realtimeRuntime && { realtimeRuntime: Number(cpu.realtimeRuntime.value) }),
    ...(cpu.realtimePeriod && { realtimePeriod: Number(cpu.realtimePeriod.value) }),
    ...(cpu.cpus !== "" && { cpus: cpu.cpus }),
    ...(cpu.mems !== "" && { mems: cpu.mems }),
  };
}

/** A limit is one of memory and swap together, unless the plugin says what that is. */
function memoryOf({ memory }: LinuxResources): oci.LinuxMemory {
  if (!memory) return {};
  const limit = memory.limit && memory.limit.value !== 0n ? Number(memory.limit.value) : undefined;
  return {
    ...(limit !== undefined && { limit, swap: limit }),
    ...(memory.reservation && { reservation: Number(memory.reservation.value) }),
    ...(memory.swap && { swap: Number(memory.swap.value) }),
    ...(memory.kernel && { kernel: Number(memory.kernel.value) }),
    ...(memory.kernelTcp && { kernelTCP: Number(memory.kernelTcp.value) }),
    ...(memory.swappiness && { swappiness: Number(memory.swappiness.value) }),
    ...(memory.disableOomKiller && { disableOOMKiller: memory.disableOomKiller.value }),
    ...(memory.useHierarchy && { useHierarchy: memory.useHierarchy.value }),
  };
}
