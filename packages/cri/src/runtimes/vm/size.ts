/** A machine grows with what its containers may use: their limits come on top of what it was started with. It does not shrink. */
import type { cri } from "@berth/spec";
import type { PodMachine } from "@berth/vm";
import type { CriContext } from "../../context.ts";

type Resources = cri.LinuxContainerResources | undefined;

const MIB = 1 << 20;

/** Of one machine, one after the other. */
const growing = new WeakMap<PodMachine, Promise<void>>();

/** `changed`: the resources of a container that are about to hold. */
export async function growMachine(
  context: CriContext,
  machine: PodMachine,
  sandboxId: string,
  changed?: { readonly id: string; readonly resources: Resources },
): Promise<void> {
  const before = growing.get(machine) ?? Promise.resolve();
  const grown = before.catch(() => {}).then(() => grow(context, machine, sandboxId, changed));
  growing.set(machine, grown);
  await grown;
}

async function grow(
  context: CriContext,
  machine: PodMachine,
  sandboxId: string,
  changed: { readonly id: string; readonly resources: Resources } | undefined,
): Promise<void> {
  const all = [...context.containers.values()]
    .map(({ record }) => record)
    .filter((record) => record.sandboxId === sandboxId && !["exited", "removing"].includes(record.phase))
    .map((record) => (record.id === changed?.id ? changed.resources : record.resources));
  const { default_memory: memory, default_vcpus: vcpus } = machine.settings.hypervisor;
  await growMemory(machine, memory + sum(all, memoryOf));
  await growVcpus(
    machine,
    Math.ceil(Math.max(1, vcpus) + sum(all, processorsOf)),
    all.some((each) => processorsOf(each) > 0),
  );
}

const sum = (all: Iterable<Resources>, of: (resources: Resources) => number): number =>
  [...all].reduce((total, resources) => total + of(resources), 0);

/** MiB. */
const memoryOf = (resources: Resources): number => Math.ceil(Number(resources?.memoryLimitInBytes ?? 0n) / MIB);

const processorsOf = (resources: Resources): number => {
  const [quota, period] = [Number(resources?.cpuQuota ?? 0n), Number(resources?.cpuPeriod ?? 0n) || 100_000];
  return quota > 0 ? quota / period : 0;
};

async function growMemory({ vm }: PodMachine, mib: number): Promise<void> {
  if (mib * MIB > (await vm.memoryBytes())) await vm.setMemory(mib);
}

/** As many as the machine can have at most. */
async function growVcpus({ vm, runtime, maxVcpus }: PodMachine, wanted: number, isAsked: boolean): Promise<void> {
  const before = await vm.vcpus();
  if (!isAsked || Math.min(maxVcpus, wanted) <= before) return;
  const count = await vm.setVcpus(Math.min(maxVcpus, wanted));
  await runtime.online(count, count - before);
}
