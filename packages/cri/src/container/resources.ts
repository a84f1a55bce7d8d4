/** CRI resources to OCI's; zero means "not set" in the CRI. */
import type { cri, oci } from "@berth/spec";

export function resourcesOf(resources: cri.LinuxContainerResources | undefined): oci.LinuxResources {
  if (!resources) return {};
  const cpu: oci.LinuxCPU = {
    ...(resources.cpuShares > 0n && { shares: Number(resources.cpuShares) }),
    ...(resources.cpuQuota !== 0n && { quota: Number(resources.cpuQuota) }),
    ...(resources.cpuPeriod > 0n && { period: Number(resources.cpuPeriod) }),
    ...(resources.cpusetCpus !== "" && { cpus: resources.cpusetCpus }),
    ...(resources.cpusetMems !== "" && { mems: resources.cpusetMems }),
  };
  const memory: oci.LinuxMemory = {
    ...(resources.memoryLimitInBytes > 0n && { limit: Number(resources.memoryLimitInBytes) }),
    ...(resources.memorySwapLimitInBytes !== 0n && { swap: Number(resources.memorySwapLimitInBytes) }),
  };
  const hugepageLimits = resources.hugepageLimits.map(({ pageSize, limit }) => ({ pageSize, limit: Number(limit) }));
  return {
    ...(Object.keys(cpu).length > 0 && { cpu }),
    ...(Object.keys(memory).length > 0 && { memory }),
    ...(hugepageLimits.length > 0 && { hugepageLimits }),
    ...(Object.keys(resources.unified).length > 0 && { unified: resources.unified }),
  };
}
