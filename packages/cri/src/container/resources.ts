/** CRI resources to OCI's; zero means "not set" in the CRI. */
import type { cri, oci } from "@berth/spec";
import { invalid } from "../errors.ts";

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
  const { [PIDS]: most, ...unified } = resources.unified;
  return {
    ...(Object.keys(cpu).length > 0 && { cpu }),
    ...(Object.keys(memory).length > 0 && { memory }),
    ...(hugepageLimits.length > 0 && { hugepageLimits }),
    ...(most !== undefined && { pids: { limit: pidsLimit(most) } }),
    ...(Object.keys(unified).length > 0 && { unified }),
  };
}

/** The one name of cgroup v2's that the CRI has no field for and v1 has under the same name. */
const PIDS = "pids.max";

function pidsLimit(text: string): number {
  if (text.trim() === "max") return -1;
  if (!/^\s*\d{1,15}\s*$/.test(text))
    throw invalid(`linux.resources.unified["${PIDS}"]: "${text}" is neither a number nor "max"`);
  return Number(text);
}
