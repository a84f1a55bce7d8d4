/** What the CRI says of a pod and its containers, as the size of their machine. */
import type { cri } from "@berth/spec";
import { cpusOf, type Limits, type PodMachine, sizeMachine } from "@berth/vm";
import type { CriContext } from "../../context.ts";
import type { SandboxRecord } from "../../store/records.ts";

type Resources = cri.LinuxContainerResources | undefined;

/** `changed`: the resources of a container that are about to hold. */
export async function fitMachine(
  context: CriContext,
  machine: PodMachine,
  sandboxId: string,
  changed?: { readonly id: string; readonly resources: Resources },
): Promise<void> {
  const all = [...context.containers.values()]
    .map(({ record }) => record)
    .filter((record) => record.sandboxId === sandboxId && !["exited", "removing"].includes(record.phase))
    .map((record) => limitsOf(record.id === changed?.id ? changed.resources : record.resources));
  await sizeMachine(machine, all);
}

const limitsOf = (resources: Resources): Limits => ({
  memoryBytes: Math.max(0, Number(resources?.memoryLimitInBytes ?? 0n)),
  cpus: cpusOf(Number(resources?.cpuQuota ?? 0n), Number(resources?.cpuPeriod ?? 0n)),
});

const ANNOTATION = "io.kubernetes.cri.sandbox-";

/** Of all of its containers together, known before there is one: from the kubelet, or from annotations as containerd writes them. */
export function podLimits({ config }: Pick<SandboxRecord, "config">): Limits {
  if (config.linux?.resources) return limitsOf(config.linux.resources);
  const value = (name: string): number => {
    const number = Number(config.annotations[`${ANNOTATION}${name}`] ?? 0);
    return Number.isFinite(number) && number > 0 ? number : 0;
  };
  return { memoryBytes: value("memory"), cpus: cpusOf(value("cpu-quota"), value("cpu-period")) };
}
