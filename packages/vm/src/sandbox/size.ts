/** A machine has what its containers may use: their limits come on top of what it is by itself, and go when they do. */
import type { VmSettings } from "../configuration/settings.ts";
import type { Capabilities } from "../hypervisor/machine.ts";
import type { PodMachine } from "./machine.ts";

/** Of a container, or of all of a pod's. 0: none. */
export interface Limits {
  readonly memoryBytes: number;
  /** Processors' time, as 1.5. */
  readonly cpus: number;
}

const MIB = 1 << 20;
/** Of quota and period in microseconds, as the CRI and runtimes have them. */
export const cpusOf = (quota: number, period: number): number => (quota > 0 ? quota / (period || 100_000) : 0);

/** It is made for the whole pod at its start, and stays so: by configuration, or as its hypervisor can do no other. */
export const isSizedAtStart = ({ runtime }: VmSettings, { growMemory }: Capabilities): boolean =>
  runtime.static_sandbox_resource_mgmt || !growMemory;

interface Sized {
  /** What it was asked to be last. */
  readonly mib: number | undefined;
}

const NEVER: Sized = { mib: undefined };

/** Of one machine, one after the other. */
const sizing = new WeakMap<PodMachine, Promise<Sized>>();

/** `containers`: the limits of all that are there, or are about to be. Rejects with VmError. */
export async function sizeMachine(machine: PodMachine, containers: readonly Limits[]): Promise<void> {
  if (isSizedAtStart(machine.settings, machine.capabilities)) return;
  const before = sizing.get(machine) ?? Promise.resolve(NEVER);
  const sized = before.then((last) => size(machine, containers, last));
  sizing.set(
    machine,
    sized.catch(() => NEVER),
  );
  await sized;
}

async function size(machine: PodMachine, containers: readonly Limits[], last: Sized): Promise<Sized> {
  const { memory, vcpus } = machine.machine;
  const mib = memory.mib + Math.ceil(sum(containers.map(({ memoryBytes }) => memoryBytes)) / MIB);
  await sizeMemory(machine, mib, last);
  const cpus = sum(containers.map((each) => each.cpus));
  await sizeVcpus(machine, cpus > 0 ? Math.ceil(Math.max(1, machine.settings.hypervisor.default_vcpus) + cpus) : vcpus);
  return { mib };
}

const sum = (all: readonly number[]): number => all.reduce((total, each) => total + each, 0);

/** What it has and does not need the guest gives back as it can: it is asked, not awaited. */
async function sizeMemory({ vm }: PodMachine, mib: number, last: Sized): Promise<void> {
  if (mib === last.mib || mib * MIB === (await vm.memoryBytes())) return;
  await vm.setMemory(mib);
}

/** As many as the machine can have at most. */
async function sizeVcpus({ vm, runtime, maxVcpus }: PodMachine, wanted: number): Promise<void> {
  const before = await vm.vcpus();
  const count = Math.min(maxVcpus, wanted);
  if (count === before) return;
  const now = await vm.setVcpus(count);
  if (now > before) await runtime.online(now, now - before);
}
