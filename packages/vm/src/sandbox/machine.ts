/** A pod's machine: started, found again after a restart, and taken away. */
import { MonitorLost, type MonitorLink, OrderError, type Order } from "@berth/kernel";
import { cacheProblem } from "../configuration/cache.ts";
import type { VmSettings } from "../configuration/settings.ts";
import type { Stock } from "../factory/cache.ts";
import type { Found, Wanted } from "../factory/factory.ts";
import { cacheDigest, cacheSize, templateKey, templateProblem } from "../factory/key.ts";
import type { Template } from "../factory/store.ts";
import { type GuestFiles, machineShape } from "../hypervisor/choose.ts";
import { type Accelerator, hypervisorOf } from "../hypervisor/drivers.ts";
import type { Capabilities, Hypervisor, Machine, Nic, Vm } from "../hypervisor/machine.ts";
import { nicRates } from "../hypervisor/rates.ts";
import { findAgentSandbox } from "../agent/sandbox.ts";
import type { GuestRuntime } from "../guest/runtime.ts";
import { namespaceOf } from "../network/apart.ts";
import { adoptedNetwork, configureGuestNetwork } from "../network/guest.ts";
import { openTaps } from "../network/open-taps.ts";
import { makeMacvtaps } from "../network/macvtap.ts";
import { podInterfaces, redirect, type PodInterface } from "../network/host.ts";
import { factsOf, letGo, type Running, sharesOf, type Start, startPrograms } from "./boot.ts";
import { guestFilesOf, findAcceleratorOf } from "./files.ts";
import { connectGuest, type Guest } from "./guest.ts";
import { helperWords, helpersOf, watchHelpers } from "./helpers.ts";
import { identityOrders, podOrders, rescanOrder, shareMounts, SYSCTL } from "./guest-orders.ts";
import { startKataGuest } from "./kata.ts";
import { openedAgent, openedBosun, type OpenedGuest } from "./opened.ts";
import { machineDirectory, type VmHost } from "./host.ts";
import { COPY_MS, type IdleMachine, startIdle, takeIdle } from "./idle.ts";
import { connectControl, type MachineState, readState, writeState } from "./launch.ts";
import { endProgram, findProgram, lastWords } from "./programs.ts";
import { endPrograms, removeMachine } from "./remove.ts";
import { nineShare } from "../storage/nine.ts";
import { closeCopies, resumeCopies } from "../storage/copies.ts";
import { shareOrders } from "./share.ts";
import { isSizedAtStart, type Limits } from "./size.ts";
import { clockParameters } from "./clock.ts";
import { coldPlugged } from "./devices.ts";
import { admit, becomeOrders, vmUser } from "./unprivileged.ts";

export interface MachineRequest {
  /** The pod's, or so much of it as paths of sockets have room for. */
  readonly id: string;
  /** The pod's whole id, as others know it; default: that. */
  readonly pod?: string | undefined;
  readonly settings: VmSettings;
  /** A pinned network namespace; undefined: the machine has no network. */
  readonly netns: string | undefined;
  /** Of the hypervisor and its helpers, in the host's hierarchies. */
  readonly cgroup: string;
  /** Of all its containers together, where they are known: what a machine that is sized at its start is sized by. */
  readonly limits?: Limits | undefined;
  /** Nodes of the host's devices that its containers will ask for, where they are known. */
  readonly devices?: readonly string[] | undefined;
  readonly hostname: string;
  /** Bytes of /dev/shm. */
  readonly shmSize: number;
  /** By name with dots. */
  readonly sysctls: Readonly<Record<string, string>>;
  /** In Rego, for an agent that has policies of its own. */
  readonly policy?: string | undefined;
  readonly onStep?: (step: string) => void;
  readonly signal?: AbortSignal | undefined;
}

export interface PodMachine {
  readonly id: string;
  readonly directory: string;
  readonly settings: VmSettings;
  /** Berth's own; where it is Kata's, reading this throws VmError Unsupported. */
  readonly guest: Guest;
  /** Its containers. */
  readonly runtime: GuestRuntime;
  readonly vm: Vm;
  /** As it was started. */
  readonly machine: Machine;
  /** The hypervisor's own network namespace; undefined: it is in its pod's. */
  readonly apart: string | undefined;
  /** Processors that it can have. */
  readonly maxVcpus: number;
  /** Of its hypervisor. */
  readonly capabilities: Capabilities;
  /** Resolves, with the reason, when the hypervisor or what it stands on has ended; nothing of the machine runs then. */
  readonly ended: Promise<string>;
  /** Ends the connections; the machine runs on. */
  close(): Promise<void>;
}

/** Rejects with VmError, or the signal's reason; what was made is for removeMachine to take away. */
export async function startMachine(vm: VmHost, request: MachineRequest): Promise<PodMachine> {
  const { settings, onStep } = request;
  onStep?.("prepare the virtual machine");
  const files = await guestFilesOf(vm, settings);
  const pod = await describe(vm, request, files);
  const { accelerator, hypervisor, machine } = pod;
  const wanted = { settings, accelerator, machine, hypervisor };
  // Kata's agent is not told that it is a copy; a share by 9p cannot be saved; and devices of the node are one machine's.
  const isCopyable = files.agent === undefined && machine.nine === undefined && machine.devices.length === 0;
  const kind = isCopyable ? await kindOf(vm, wanted) : undefined;
  const taken = kind && (await tryTake(vm, pod, kind));
  const started = taken ?? (await startNew(vm, pod, wanted, isCopyable));
  if (kind) vm.cache?.keep(kind);
  return started;
}

/** What a pod asks for, before anything of it is there. */
interface Pod {
  readonly request: MachineRequest;
  readonly accelerator: Accelerator;
  readonly hypervisor: Hypervisor;
  /** Without taps that are open from its start. */
  readonly machine: Machine;
  readonly interfaces: readonly PodInterface[];
}

async function describe(vm: VmHost, request: MachineRequest, files: GuestFiles): Promise<Pod> {
  const { id, settings, netns } = request;
  const directory = machineDirectory(vm, id);
  const { accelerator } = await findAcceleratorOf(vm, settings, files);
  const hypervisor = hypervisorOf(settings, accelerator);
  const interfaces =
    netns === undefined || settings.runtime.internetworking_model === "none" ? [] : await podInterfaces(vm.hand, netns);
  const limits = isSizedAtStart(settings, hypervisor.capabilities) ? request.limits : undefined;
  const shape = machineShape(settings, files, limits);
  const machine: Machine = {
    ...shape,
    commandLine: [...shape.commandLine, ...(await clockParameters(vm.hand, settings, accelerator))],
    id,
    pod: request.pod,
    directory,
    shares: sharesOf(settings, directory, files.agent),
    nine: nineShare(settings, files, directory),
    nics: interfaces.map((own, index) => nicOf(settings, own, index)),
    disks: [],
    devices: await coldPlugged(settings, request.devices ?? []),
  };
  return { request, accelerator, hypervisor, machine, interfaces };
}

/** Of machines that wait for a pod as this one is. Undefined: none does. */
async function kindOf(vm: VmHost, wanted: Wanted): Promise<Stock<IdleMachine> | undefined> {
  const { settings, hypervisor, machine } = wanted;
  if (!vm.cache || cacheProblem(settings) !== undefined) return undefined;
  const key = await templateKey(hypervisor, machine);
  const make = async (signal: AbortSignal): Promise<IdleMachine | undefined> => {
    await vm.factory?.made(key);
    const found = await vm.factory?.find(vm, wanted);
    if (templateProblem(settings) === undefined && !found?.template) return undefined;
    return await startIdle(vm, { ...wanted, template: found?.template, signal });
  };
  return { digest: cacheDigest(key, hypervisor, machine, settings), count: cacheSize(settings), make };
}

/** Undefined: there was none, or it did not become the pod's; then nothing of it is left. */
async function tryTake(vm: VmHost, pod: Pod, { digest }: Stock<IdleMachine>): Promise<PodMachine | undefined> {
  const idle = vm.cache?.take(digest);
  if (!idle) return undefined;
  const { request, machine } = pod;
  const { running } = idle;
  try {
    request.onStep?.("take a machine from the cache");
    const { guest, links, apart } = await takeIdle(vm, idle, { ...request, ...pod, signal: request.signal });
    const own = await Promise.race([setUpBosun(guest, pod, adoptedNetwork(pod.interfaces, links)), running.failed]);
    await join(vm, pod);
    vm.cache?.succeed(digest);
    return opened({ ...pod, settings: request.settings, running, guest: own, apart });
  } catch (error) {
    const said = await lastWords(machine.directory, "hypervisor");
    letGo(running);
    await removeMachine(vm, idle.id);
    await removeMachine(vm, machine.id);
    request.signal?.throwIfAborted();
    if (isPodsOwn(error)) throw error;
    vm.cache?.fail(digest, `one did not become its pod's: ${(error as Error).message}${said}`);
    return undefined;
  }
}

/** Copied where there is a template that can be; else booted, and a template made behind it. */
async function startNew(vm: VmHost, pod: Pod, wanted: Wanted, isCopyable: boolean): Promise<PodMachine> {
  const found = isCopyable ? await vm.factory?.find(vm, wanted) : undefined;
  const start = await prepare(vm, pod);
  const copied = found?.template && (await tryCopy(vm, pod, start, { ...found, template: found.template }));
  if (copied) return copied;
  const booted = await bootMachine(vm, pod, start);
  if (found) vm.factory?.make(vm, wanted, found);
  return booted;
}

/** All that its programs are started with. */
async function prepare(vm: VmHost, { request, accelerator, hypervisor, machine, interfaces }: Pod): Promise<Start> {
  const { id, settings, netns, cgroup, signal } = request;
  const { directory } = machine;
  await writeState(directory, { settings, accelerator, cgroup });
  await vm.hand.run({ orders: shareOrders(directory) }, signal ? { signal } : {});
  const user = settings.hypervisor.rootless ? await vmUser(id) : undefined;
  if (user) await admit(directory, user);
  const isMacvtap = settings.runtime.internetworking_model === "macvtap";
  const taps = isMacvtap ? await makeMacvtaps(vm.hand, netns ?? "", id, interfaces) : user ? openTaps(interfaces) : [];
  const own = [...taps.flatMap(({ orders }) => orders), ...(user ? becomeOrders(user) : [])];
  const nics = machine.nics.map((nic, index) => ({ ...nic, fd: taps[index]?.fd }));
  const whole = { ...machine, nics };
  await writeState(directory, { settings, accelerator, cgroup, machine: whole });
  return {
    settings,
    accelerator,
    hypervisor,
    machine: whole,
    place: { cgroup, netns, own },
    owner: user?.uid,
    onStep: request.onStep,
    signal,
  };
}

/** What a pod asked for is wrong, and every machine would say so. */
const isPodsOwn = (error: unknown): boolean => error instanceof OrderError && (error.because ?? "").startsWith(SYSCTL);

/** Undefined: it did not come to life, and nothing of it is left; whoever wants a machine has to boot one. */
async function tryCopy(
  vm: VmHost,
  pod: Pod,
  start: Start,
  found: Found & { template: Template },
): Promise<PodMachine | undefined> {
  const { directory } = start.machine;
  try {
    return await bootMachine(vm, pod, start, found.template);
  } catch (error) {
    start.signal?.throwIfAborted();
    if (isPodsOwn(error)) throw error;
    const said = await lastWords(directory, "hypervisor");
    await vm.factory?.fail(vm, found, `${(error as Error).message}${said}`);
    await endPrograms(vm, directory);
    return undefined;
  }
}

async function bootMachine(vm: VmHost, pod: Pod, start: Start, template?: Template): Promise<PodMachine> {
  const { onStep } = pod.request;
  const { machine, settings, hypervisor } = start;
  const running = await startPrograms(vm, start, template);
  try {
    onStep?.("wait for the guest");
    const guest = await Promise.race([startGuest(vm, pod, machine, template), running.failed]);
    await join(vm, pod);
    return opened({ machine, settings, hypervisor, running, guest, apart: undefined });
  } catch (error) {
    letGo(running);
    throw error;
  }
}

/** Its taps with the pod's interfaces. The last that can fail: a machine that did has left nothing in the pod's network. */
async function join(vm: VmHost, { request, hypervisor, interfaces }: Pod): Promise<void> {
  const { netns, settings } = request;
  if (netns === undefined || settings.runtime.internetworking_model === "macvtap") return;
  request.onStep?.("join the pod's network");
  const limits = hypervisor.capabilities.limitsNics ? undefined : nicRates(settings);
  await redirect(vm.hand, netns, interfaces, limits);
}

async function startGuest(vm: VmHost, pod: Pod, machine: Machine, template?: Template): Promise<OpenedGuest> {
  const { request, interfaces } = pod;
  const { settings, signal } = request;
  if (machine.agent !== undefined) return openedAgent(await startKataGuest(vm, machine, request, interfaces));
  const facts = template && (await factsOf(template));
  const timeoutMs = template ? COPY_MS : settings.agent.dial_timeout * 1000;
  const guest = await connectGuest(machine.directory, { timeoutMs, signal, facts });
  const set = await setUpBosun(guest, pod, [...(template ? [rescanOrder] : []), ...shareMounts(machine, settings)]);
  if (interfaces.length > 0) request.onStep?.("set up the guest's network");
  await configureGuestNetwork(guest.hand, interfaces);
  return set;
}

/** `own`: what the machine needs besides. */
async function setUpBosun(guest: Guest, { request, machine }: Pod, own: readonly Order[]): Promise<OpenedGuest> {
  const { settings, signal, onStep } = request;
  onStep?.("set up the guest");
  const orders = [...identityOrders(), ...own, ...podOrders(request)];
  await guest.hand.run({ orders }, { timeoutMs: settings.agent.dial_timeout * 1000, ...(signal && { signal }) });
  return openedBosun(machine.directory, guest);
}

function nicOf(settings: VmSettings, { link, tap }: PodInterface, index: number): Nic {
  const { hypervisor } = settings;
  return {
    id: `net${index}`,
    tap,
    mac: link.mac,
    queues: Math.max(1, hypervisor.network_queues),
    vhost: false,
    ...nicRates(settings),
  };
}

/** The machine of an earlier berthd. Undefined: it is gone, and removeMachine has to clean up. */
export async function findMachine(host: VmHost, id: string): Promise<PodMachine | undefined> {
  const directory = machineDirectory(host, id);
  const state = await readState(directory);
  const machine = state?.machine;
  const link = machine && (await findProgram(directory, "hypervisor"));
  if (!machine || !link) return undefined;
  if (await hasExited(link)) {
    link.close();
    return undefined;
  }
  try {
    return await adopt(host, state, machine, link);
  } catch (error) {
    link.close();
    throw error;
  }
}

async function adopt(host: VmHost, state: MachineState, machine: Machine, link: MonitorLink): Promise<PodMachine> {
  const { settings } = state;
  const { directory } = machine;
  const hypervisor = hypervisorOf(settings, state.accelerator);
  const control = await connectControl(hypervisor, machine);
  const helpers = await watchHelpers(directory, helpersOf(hypervisor, machine), { link, vm: control });
  const timeoutMs = settings.agent.dial_timeout * 1000;
  const warn = (message: string): void => host.log("warn", message);
  const agent = await findAgentSandbox(directory, { timeoutMs, warn });
  const guest = agent ? openedAgent(agent) : openedBosun(directory, await connectGuest(directory, { timeoutMs }));
  const apart = state.apart === true ? namespaceOf((await link.state()).pid) : undefined;
  const found = opened({ machine, settings, hypervisor, running: { link, control, helpers }, guest, apart });
  await resumeCopies(found, warn);
  return found;
}

/** A monitor may outlive its program by a moment, or by who is still connected to it. */
async function hasExited(link: MonitorLink): Promise<boolean> {
  try {
    return (await link.state()).phase === "exited";
  } catch (error) {
    if (error instanceof MonitorLost) return true;
    throw error;
  }
}

interface Parts {
  readonly machine: Machine;
  readonly settings: VmSettings;
  readonly hypervisor: Hypervisor;
  readonly running: Omit<Running, "failed">;
  readonly guest: OpenedGuest;
  readonly apart: string | undefined;
}

function opened({ machine, settings, hypervisor, running, guest, apart }: Parts): PodMachine {
  const { id, directory } = machine;
  const { link, control, helpers } = running;
  const helperFailed = helpers.failed.then((end) => helperWords(directory, end));
  const exited = link.exited.then(
    async ({ code }) => `the hypervisor ended with status ${code}${await lastWords(directory, "hypervisor")}`,
    (error: unknown) => {
      if (error instanceof MonitorLost) return `the hypervisor's monitor is gone: ${error.message}`;
      throw error;
    },
  );
  return {
    id,
    directory,
    settings,
    get guest(): Guest {
      return guest.guest;
    },
    runtime: guest.runtime,
    vm: control,
    machine,
    apart,
    maxVcpus: machine.maxVcpus,
    capabilities: hypervisor.capabilities,
    ended: Promise.race([exited, guest.lost, helperFailed]).then(async (reason) => {
      // Who waits for what is gone, in the guest or for it, waits no longer.
      await endProgram(directory, "hypervisor");
      return reason;
    }),
    close: async () => {
      closeCopies({ directory });
      letGo(running);
      await guest.close();
    },
  };
}
