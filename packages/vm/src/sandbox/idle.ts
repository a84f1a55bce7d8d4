/** Machines that run before there is a pod for them: everything of one that is no pod's is there, and the rest comes when it is taken. */
import { rename } from "node:fs/promises";
import { cgroupCreation, type HostFacts, moveProcesses } from "@berth/kernel";
import { type Link, linksRequest, parseLinks } from "@berth/kernel/netlink";
import { cgroupRemoval } from "@berth/runtime";
import { newName } from "../factory/names.ts";
import type { Kept } from "../factory/cache.ts";
import type { Template } from "../factory/store.ts";
import type { Accelerator } from "../hypervisor/drivers.ts";
import { VmError } from "../errors.ts";
import type { Hypervisor, Machine, Nic } from "../hypervisor/machine.ts";
import type { VmSettings } from "../configuration/settings.ts";
import { askNetwork } from "../network/host.ts";
import { randomMac } from "../network/mac.ts";
import { bringTaps, namespaceOf, ownNamespace } from "../network/apart.ts";
import { allOrFirst, factsOf, letGo, type Running, sharesOf, startPrograms } from "./boot.ts";
import { connectGuest, type Guest } from "./guest.ts";
import { identityOrders, rescanOrder, shareMounts } from "./guest-orders.ts";
import { machineDirectory, type VmHost } from "./host.ts";
import { writeState } from "./launch.ts";
import { removeMachine } from "./remove.ts";
import { shareOrders } from "./share.ts";

export interface IdleMachine extends Kept {
  readonly id: string;
  readonly directory: string;
  readonly cgroup: string;
  readonly running: Running;
  readonly facts: HostFacts;
  /** What its network devices are in its guest. */
  readonly links: readonly Link[];
}

export interface IdleRequest {
  readonly settings: VmSettings;
  readonly accelerator: Accelerator;
  readonly hypervisor: Hypervisor;
  /** That a pod asked for. */
  readonly machine: Machine;
  /** Undefined: it boots. */
  readonly template: Template | undefined;
  readonly signal: AbortSignal;
}

/** A copy of a template answers within milliseconds, or never. */
export const COPY_MS = 20_000;
/** Nobody waits for one that is made ahead, on however busy a node. */
const PATIENCE_MS = 180_000;

/** Rejects with VmError, or the signal's reason, and then nothing is left of it. */
export async function startIdle(vm: VmHost, request: IdleRequest): Promise<IdleMachine> {
  const id = newName("vmc");
  try {
    return await start(vm, id, request);
  } catch (error) {
    await removeMachine(vm, id);
    throw error;
  }
}

async function start(vm: VmHost, id: string, request: IdleRequest): Promise<IdleMachine> {
  const { settings, accelerator, hypervisor, template, signal } = request;
  const directory = machineDirectory(vm, id);
  const cgroup = `/berth-${id}`;
  const shares = sharesOf(settings, directory, undefined);
  const nics = request.machine.nics.map((nic) => ({ ...nic, mac: randomMac() }));
  const machine: Machine = { ...request.machine, id, directory, shares, nics, disks: [], devices: [] };
  const state = { settings, accelerator, cgroup };
  await writeState(directory, state);
  await vm.hand.run({ orders: shareOrders(directory) }, { signal });
  const place = { cgroup, own: [ownNamespace] };
  const running = await startPrograms(
    vm,
    { settings, accelerator, hypervisor, machine: { ...machine, nics: [] }, place, owner: undefined, signal },
    template,
  );
  const { control, failed } = running;
  try {
    const timeoutMs = PATIENCE_MS;
    const facts = template && (await factsOf(template));
    const guest = await Promise.race([connectGuest(directory, { timeoutMs, signal, facts }), failed]);
    for (const nic of nics) await control.addNic(nic);
    const orders = [...identityOrders(), rescanOrder, ...shareMounts(machine, settings)];
    await guest.hand.run({ orders }, { signal });
    const links = await linksOf(guest, nics);
    await guest.hand.close();
    // With its machine it is one that can be taken.
    await writeState(directory, { ...state, machine, apart: true });
    return {
      id,
      directory,
      cgroup,
      running,
      facts: guest.facts,
      links,
      ended: failed.catch((error: unknown) => (error as Error).message),
      remove: async () => {
        letGo(running);
        await removeMachine(vm, id);
      },
    };
  } catch (error) {
    letGo(running);
    throw error;
  }
}

async function linksOf({ hand }: Guest, nics: readonly Nic[]): Promise<Link[]> {
  if (nics.length === 0) return [];
  const [answer] = await askNetwork(hand, [], linksRequest());
  const links = parseLinks(answer ?? new Uint8Array());
  return nics.map(({ mac }) => {
    const found = links.find((link) => link.mac === mac);
    if (!found) throw new VmError("Guest", `the guest has no interface of address ${mac}`);
    return found;
  });
}

export interface Taking {
  readonly settings: VmSettings;
  readonly accelerator: Accelerator;
  /** The pod's, with its interfaces. */
  readonly machine: Machine;
  readonly cgroup: string;
  readonly netns: string | undefined;
  readonly signal: AbortSignal | undefined;
  readonly onStep?: (step: string) => void;
}

/** What has been taken, before its guest knows of its pod. */
export interface Taken {
  readonly guest: Guest;
  readonly links: readonly Link[];
  /** Of the hypervisor's own network namespace. */
  readonly apart: string;
}

/**
 * Makes it the pod's: its directory, its processes' cgroup, its taps. Rejects with VmError, or the signal's reason: what there is
 * of it then is for removeMachine to take away, by the pod's name or its own.
 */
export async function takeIdle(vm: VmHost, idle: IdleMachine, taking: Taking): Promise<Taken> {
  const { settings, accelerator, machine, cgroup, signal } = taking;
  const state = { settings, accelerator, cgroup, machine, apart: true };
  // Whoever finds it, by whichever name, finds all that is its own.
  await writeState(idle.directory, { ...state, formerCgroup: idle.cgroup });
  await rename(idle.directory, machine.directory);
  taking.onStep?.("plug in the pod's network");
  const gone = new AbortController();
  idle.running.failed.catch((error: unknown) => gone.abort(error));
  const either = signal ? AbortSignal.any([signal, gone.signal]) : gone.signal;
  const [guest, apart] = await allOrFirst([
    connectGuest(machine.directory, { timeoutMs: COPY_MS, signal: either, facts: idle.facts }),
    bringNics(vm, idle, taking),
    moveIn(vm, idle, cgroup),
  ]);
  await writeState(machine.directory, state);
  return { guest, links: idle.links, apart };
}

async function moveIn(vm: VmHost, idle: IdleMachine, cgroup: string): Promise<void> {
  await vm.hand.run({ orders: cgroupCreation(cgroup, vm.host).orders });
  await moveProcesses(idle.cgroup, cgroup, vm.host);
  await vm.hand.run(cgroupRemoval(idle.cgroup, vm.host));
}

/** Answers where the hypervisor's own network namespace is. */
async function bringNics(vm: VmHost, { running }: IdleMachine, { machine, netns }: Taking): Promise<string> {
  const apart = namespaceOf((await running.link.state()).pid);
  if (netns !== undefined)
    await bringTaps(
      vm.hand,
      apart,
      netns,
      machine.nics.map(({ tap }) => tap),
    );
  return apart;
}
