/** What a container's config says of the size of its machine. */
import type { oci } from "@berth/spec";
import { cpusOf, type Limits } from "@berth/vm";

export const limitsOf = ({ memory, cpu }: oci.LinuxResources = {}): Limits => ({
  memoryBytes: Math.max(0, memory?.limit ?? 0),
  cpus: cpusOf(cpu?.quota ?? 0, cpu?.period ?? 0),
});

/** Changed ones; what is left out stays. */
export const merged = (before: oci.LinuxResources = {}, change: oci.LinuxResources): oci.LinuxResources => ({
  ...before,
  ...change,
  memory: { ...before.memory, ...change.memory },
  cpu: { ...before.cpu, ...change.cpu },
});

const SANDBOX = "io.kubernetes.cri.sandbox-";

/** Of all of a pod's containers together, known before there is one: containerd's CRI says them in annotations. A single one's are its own. */
export function podLimits({ annotations = {}, linux }: oci.Spec): Limits {
  const value = (name: string): number => {
    const number = Number(annotations[`${SANDBOX}${name}`] ?? 0);
    return Number.isFinite(number) && number > 0 ? number : 0;
  };
  if (annotations[`${SANDBOX}memory`] === undefined) return limitsOf(linux?.resources);
  return { memoryBytes: value("memory"), cpus: cpusOf(value("cpu-quota"), value("cpu-period")) };
}
