/** CRI resources to OCI's; zero means "not set" in the CRI. */
import type { cri, oci } from "@berth/spec";
import { invalid } from "../errors.ts";
import type { CriContext } from "../context.ts";

export function resourcesOf(
  context: CriContext,
  resources: cri.LinuxContainerResources | undefined,
): oci.LinuxResources {
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
  const { [PIDS]: most, ...unified } = resources.unified;
  const hugepageLimits = limitsHugePages(context)
    ? resources.hugepageLimits.map(({ pageSize, limit }) => ({ pageSize, limit: Number(limit) }))
    : [];
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

/** The kubelet sends limits for every size that the machine has, also where its kernel cannot keep them. */
export function limitsHugePages({ config, host }: CriContext): boolean {
  if (config.disableHugetlb) return false;
  const { v1, unified } = host.cgroups;
  const there =
    v1.some(({ controllers }) => controllers.includes("hugetlb")) || unified?.controllers.includes("hugetlb") === true;
  return there || !config.tolerateMissingHugetlb;
}
