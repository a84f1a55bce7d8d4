/** A pod's machine: started, found again after a restart, and taken away. */
import { randomBytes } from "node:crypto";
import { chown } from "node:fs/promises";
import { killCgroup, MonitorLost, type MonitorLink, O, type Order } from "@berth/kernel";
import { cgroupRemoval } from "@berth/runtime";
import type { VmSettings } from "../configuration/settings.ts";
import { VmError } from "../errors.ts";
import type { Found } from "../factory/factory.ts";
import type { Template } from "../factory/store.ts";
import { type GuestFiles, machineShape } from "../hypervisor/choose.ts";
import { type Accelerator, hypervisorOf } from "../hypervisor/drivers.ts";
import {
  type Capabilities,
  COPY_MEMORY_FD,
  COPY_STATE_FD,
  type Hypervisor,
  type Machine,
  type Nic,
  type Share,
  type Vm,
} from "../hypervisor/machine.ts";
import { nicRates } from "../hypervisor/rates.ts";
import { findAgentSandbox } from "../agent/sandbox.ts";
import { AGENT_SHARE_TAG } from "../agent/storage.ts";
import type { GuestRuntime } from "../guest/runtime.ts";
import { configureGuestNetwork } from "../network/guest.ts";
import { openTaps } from "../network/open-taps.ts";
import { makeMacvtaps } from "../network/macvtap.ts";
import { podInterfaces, redirect, type PodInterface } from "../network/host.ts";
import { guestFilesOf, findAcceleratorOf } from "./files.ts";
import { connectGuest, type Guest } from "./guest.ts";
import { type Helpers, helpersOf, watchHelpers } from "./helpers.ts";
import { startKataGuest } from "./kata.ts";
import { openedAgent, openedBosun, type OpenedGuest } from "./opened.ts";
import {
  GUEST_ROOTS,
  GUEST_SHARE,
  GUEST_SHM,
  machineDirectory,
  programDirectory,
  PROGRAMS,
  ROOTS_TAG,
  SHARE_TAG,
  type ShareServer,
  virtiofsSocket,
  type VmHost,
} from "./host.ts";
import { connectControl, launch, type Launched, type MachineState, readState, writeState } from "./launch.ts";
import { endProgram, findProgram, lastWords } from "./programs.ts";
import { nineOptions, nineShare } from "../storage/nine.ts";
import { closeCopies, resumeCopies } from "../storage/copies.ts";
import { shareOrders, shareRemoval } from "./share.ts";
import { isSizedAtStart, type Limits } from "./size.ts";
import { clockParameters } from "./clock.ts";
import { coldPlugged } from "./devices.ts";
import { admit, becomeOrders, vmUser } from "./unprivileged.ts";
import { startVirtiofsd } from "./virtiofsd.ts";

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
  const { id, settings, netns, cgroup, signal, onStep } = request;
  const directory = machineDirectory(vm, id);
  onStep?.("prepare the virtual machine");
  const files = await guestFilesOf(vm, settings);
  const { accelerator } = await findAcceleratorOf(vm, settings, files);
  await writeState(directory, { settings, accelerator, cgroup });
  await vm.hand.run({ orders: shareOrders(directory) }, signal ? { signal } : {});
  const interfaces =
    netns === undefined || settings.runtime.internetworking_model === "none" ? [] : await podInterfaces(vm.hand, netns);
  const hypervisor = hypervisorOf(settings, accelerator);
  const user = settings.hypervisor.rootless ? await vmUser(id) : undefined;
  if (user) await admit(directory, user);
  const isMacvtap = settings.runtime.internetworking_model === "macvtap";
  const taps = isMacvtap ? await makeMacvtaps(vm.hand, netns ?? "", id, interfaces) : user ? openTaps(interfaces) : [];
  const limits = isSizedAtStart(settings, hypervisor.capabilities) ? request.limits : undefined;
  const shape = machineShape(settings, files, limits);
  const machine: Machine = {
    ...shape,
    commandLine: [...shape.commandLine, ...(await clockParameters(vm.hand, settings, accelerator))],
    id,
    pod: request.pod,
    directory,
    shares: sharesOf(settings, directory, files),
    nine: nineShare(settings, files, directory),
    nics: interfaces.map((own, index) => ({ ...nicOf(settings, own, index), fd: taps[index]?.fd })),
    disks: [],
    devices: await coldPlugged(settings, request.devices ?? []),
  };
  const own = [...taps.flatMap(({ orders }) => orders), ...(user ? becomeOrders(user) : [])];
  const start: Start = { request, directory, accelerator, hypervisor, machine, interfaces, own, owner: user?.uid };
  await writeState(directory, { settings, accelerator, cgroup, machine });
  const wanted = { settings, accelerator, machine, hypervisor };
  // Kata's agent is not told that it is a copy; a share by 9p cannot be saved; and devices of the node are one machine's.
  const isCopyable = files.agent === undefined && machine.nine === undefined && (machine.devices ?? []).length === 0;
  const found = isCopyable ? await vm.factory?.find(vm, wanted) : undefined;
  const copied = found?.template && (await tryCopy(vm, start, { ...found, template: found.template }));
  if (copied) return copied;
  const booted = await bootMachine(vm, start);
  if (found) vm.factory?.make(vm, wanted, found);
  return booted;
}

interface Start {
  readonly request: MachineRequest;
  readonly directory: string;
  readonly accelerator: Accelerator;
  readonly hypervisor: Hypervisor;
  readonly machine: Machine;
  readonly interfaces: readonly PodInterface[];
  /** Orders of the hypervisor's process, before it is started. */
  readonly own: readonly Order[];
  /** The hypervisor's user; undefined: root. */
  readonly owner: number | undefined;
}

/** Undefined: it did not come to life, and nothing of it is left; whoever wants a machine has to boot one. */
async function tryCopy(
  vm: VmHost,
  start: Start,
  found: Found & { template: Template },
): Promise<PodMachine | undefined> {
  try {
    return await bootMachine(vm, start, found.template);
  } catch (error) {
    start.request.signal?.throwIfAborted();
    const said = await lastWords(start.directory, "hypervisor");
    await vm.factory?.fail(vm, found, `${(error as Error).message}${said}`);
    await endPrograms(vm, start.directory);
    return undefined;
  }
}

/** A copy of a template answers within milliseconds, or never. */
const COPY_MS = 20_000;

async function bootMachine(vm: VmHost, start: Start, template?: Template): Promise<PodMachine> {
  const { request, hypervisor, machine, interfaces } = start;
  const { settings, netns, onStep } = request;
  onStep?.(template ? "copy the template" : "start the hypervisor");
  const { link, control, failed, startRelay } = await (template
    ? launchCopy(vm, start, template)
    : launchWhole(vm, start));
  let helpers: Helpers | undefined;
  try {
    await Promise.race([control.boot(), failed]);
    await startRelay();
    if (template) for (const share of machine.shares) await control.template?.addShare(share);
    onStep?.("wait for the guest");
    helpers = await watchHelpers(machine.directory, helpersOf(hypervisor, machine), { link, vm: control });
    const helperFailed = helpers.failed.then((reason): never => {
      throw new VmError("Hypervisor", reason);
    });
    helperFailed.catch(() => {});
    const guest = await Promise.race([startGuest(vm, start, template !== undefined), failed, helperFailed]);
    // The last that can fail: a copy that did has left nothing in the pod's network.
    if (netns !== undefined && settings.runtime.internetworking_model !== "macvtap") {
      const limits = hypervisor.capabilities.limitsNics ? undefined : nicRates(settings);
      await redirect(vm.hand, netns, interfaces, limits);
    }
    return opened({ machine, settings, hypervisor, vm: control, guest, link, helpers });
  } catch (error) {
    helpers?.close();
    control.close();
    link.close();
    throw error;
  }
}

async function startGuest(vm: VmHost, start: Start, isCopy: boolean): Promise<OpenedGuest> {
  const { request, machine, interfaces } = start;
  if (machine.agent !== undefined) return openedAgent(await startKataGuest(vm, machine, request, interfaces));
  const { settings, signal, onStep } = request;
  const timeoutMs = isCopy ? COPY_MS : settings.agent.dial_timeout * 1000;
  const guest = await connectGuest(machine.directory, { timeoutMs, signal });
  onStep?.("set up the guest");
  await guest.hand.run({ orders: guestOrders(request, machine, isCopy) }, signal ? { signal } : { timeoutMs });
  await configureGuestNetwork(guest.hand, interfaces);
  return openedBosun(machine.directory, guest);
}

async function launchWhole(vm: VmHost, start: Start): Promise<Launched> {
  const { request, directory, hypervisor, machine, own } = start;
  const { netns, cgroup, signal } = request;
  await startShares(vm, start);
  return await launch(vm, { directory, hypervisor, machine, place: { cgroup, netns, own }, signal });
}

async function launchCopy(vm: VmHost, start: Start, template: Template): Promise<Launched> {
  const { request, directory, accelerator, machine } = start;
  const { settings, netns, cgroup, signal } = request;
  // virtiofsd reads and writes the guest's memory: it must be the same for both.
  const kind = machine.shares.length > 0 ? "shared" : "private";
  const [launched] = await allOrFirst([
    launch(vm, {
      directory,
      hypervisor: hypervisorOf(settings, accelerator, kind),
      machine: { ...machine, shares: [] },
      place: { cgroup, netns, own: [...copyOrders(template, kind), ...start.own] },
      signal,
    }),
    startShares(vm, start),
  ]);
  return launched;
}

/** As Promise.all, but with the first failure not before all have ended: what they start is theirs no more. */
async function allOrFirst<T extends readonly unknown[]>(work: T): Promise<{ -readonly [K in keyof T]: Awaited<T[K]> }> {
  await Promise.allSettled(work);
  return await Promise.all(work);
}

const [MEMORY_SLOT, STATE_SLOT] = [60, 61] as const;

/** The hypervisor's process opens what it copies before anybody can take it away, and what it copies counts as its pod's. */
function copyOrders({ memory, state }: Template, kind: "shared" | "private"): Order[] {
  return [
    kind === "shared"
      ? { order: "copy_memory", args: { from: memory, to: "", slot: MEMORY_SLOT } }
      : { order: "open", args: { slot: MEMORY_SLOT, path: memory, flags: BigInt(O.RDWR) } },
    { order: "open", args: { slot: STATE_SLOT, path: state, flags: BigInt(O.RDONLY) } },
    { order: "hand_over", args: { slot: MEMORY_SLOT, fd: COPY_MEMORY_FD } },
    { order: "hand_over", args: { slot: STATE_SLOT, fd: COPY_STATE_FD } },
  ];
}

/** Cached by the configuration's words; but root file systems, which by its default the guest would read anew for every program that is started. */
function sharesOf({ hypervisor }: VmSettings, directory: string, { agent }: GuestFiles): Share[] {
  if (hypervisor.shared_fs !== "virtio-fs") return [];
  const own = (tag: string, server: ShareServer): Share => ({
    tag,
    socket: virtiofsSocket(directory, server),
    queueSize: hypervisor.virtio_fs_queue_size,
    cacheSize: hypervisor.virtio_fs_cache_size,
  });
  if (agent !== undefined) return [own(AGENT_SHARE_TAG, "virtiofsd")];
  const volumes = own(SHARE_TAG, "virtiofsd");
  return hypervisor.virtio_fs_cache === "auto" ? [volumes, own(ROOTS_TAG, "roots")] : [volumes];
}

/** Returns when all listen: a hypervisor does not wait for them. */
async function startShares(vm: VmHost, { request, directory, machine, owner }: Start): Promise<void> {
  const { settings, cgroup, signal } = request;
  await Promise.all(
    machine.shares.map(async ({ tag, socket }) => {
      const server = tag === ROOTS_TAG ? "roots" : "virtiofsd";
      await startVirtiofsd(vm, directory, server, settings, { cgroup }, signal);
      if (owner !== undefined) await chown(socket, owner, owner);
    }),
  );
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

const MS_NOSUID_NODEV_NOEXEC = 0xen;

const NANOSECONDS = 1_000_000n;

/** What a machine must not have in common with another, or with its template. */
function ownOrders(isCopy: boolean): Order[] {
  return [
    { order: "reseed_rng", args: { data: randomBytes(SEED_BYTES) } },
    { order: "set_clock", args: { time: BigInt(Date.now()) * NANOSECONDS } },
    // Devices that its template had not: they are on the bus, and nobody has told the guest.
    ...(isCopy ? [{ order: "write_file", args: { path: PCI_RESCAN, data: Buffer.from("1") } } as const] : []),
  ];
}

const SEED_BYTES = 64;
const PCI_RESCAN = "/sys/bus/pci/rescan";

function guestOrders(request: MachineRequest, machine: Machine, isCopy: boolean): Order[] {
  const { hostname, shmSize, sysctls, settings } = request;
  const directory = (path: string): Order => ({ order: "mkdir", args: { path, mode: 0o755, existOk: 1, parents: 1 } });
  const mounted = (source: string, target: string, fstype: string, data: string): Order[] => [
    directory(target),
    { order: "mount", args: { source, target, fstype, flags: 0n, data } },
  ];
  const share = machine.shares.flatMap(({ tag }) =>
    mounted(tag, tag === ROOTS_TAG ? GUEST_ROOTS : GUEST_SHARE, "virtiofs", ""),
  );
  if (machine.nine) share.push(...mounted(machine.nine.tag, GUEST_SHARE, "9p", nineOptions(settings)));
  return [
    ...ownOrders(isCopy),
    ...share,
    directory("/run/berth/c"),
    directory(GUEST_SHM),
    {
      order: "mount",
      args: {
        source: "shm",
        target: GUEST_SHM,
        fstype: "tmpfs",
        flags: MS_NOSUID_NODEV_NOEXEC,
        data: `mode=1777,size=${shmSize}`,
      },
    },
    ...(hostname === "" ? [] : [{ order: "hostname", args: { hostname, domainname: "" } } as const]),
    ...Object.entries(sysctls).map(([name, value]): Order => ({
      order: "write_file",
      args: { path: `/proc/sys/${name.replaceAll(".", "/")}`, data: Buffer.from(value) },
      because: `sysctl ${name}`,
    })),
  ];
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
  const vm = await connectControl(hypervisor, machine);
  const helpers = await watchHelpers(directory, helpersOf(hypervisor, machine), { link, vm });
  const timeoutMs = settings.agent.dial_timeout * 1000;
  const warn = (message: string): void => host.log("warn", message);
  const agent = await findAgentSandbox(directory, { timeoutMs, warn });
  const guest = agent ? openedAgent(agent) : openedBosun(directory, await connectGuest(directory, { timeoutMs }));
  const found = opened({ machine, settings, hypervisor, vm, guest, link, helpers });
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
  readonly vm: Vm;
  readonly guest: OpenedGuest;
  readonly link: MonitorLink;
  readonly helpers: Helpers;
}

function opened({ machine, settings, hypervisor, vm, guest, link, helpers }: Parts): PodMachine {
  const { id, directory } = machine;
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
    vm,
    machine,
    maxVcpus: machine.maxVcpus,
    capabilities: hypervisor.capabilities,
    ended: Promise.race([exited, guest.lost, helpers.failed]).then(async (reason) => {
      // Who waits for what is gone, in the guest or for it, waits no longer.
      await endProgram(directory, "hypervisor");
      return reason;
    }),
    close: async () => {
      closeCopies({ directory });
      helpers.close();
      link.close();
      vm.close();
      await guest.close();
    },
  };
}

/** So that others can be started in their place. */
async function endPrograms(vm: VmHost, directory: string): Promise<void> {
  for (const name of PROGRAMS) await endProgram(directory, name);
  const paths = [
    ...PROGRAMS.map((name) => programDirectory(directory, name)),
    virtiofsSocket(directory),
    virtiofsSocket(directory, "roots"),
  ];
  await vm.hand.run({ orders: paths.map((path) => ({ order: "remove_tree", args: { path } })) });
}

/** Everything that startMachine makes, however far it came; idempotent. */
export async function removeMachine(vm: VmHost, id: string): Promise<void> {
  const directory = machineDirectory(vm, id);
  const state = await readState(directory);
  for (const name of PROGRAMS) await endProgram(directory, name);
  await vm.hand.run({ orders: [...shareRemoval(directory), { order: "remove_tree", args: { path: directory } }] });
  if (!state) return;
  // virtiofsd is two processes, of which its monitor knows one.
  await killCgroup(state.cgroup, vm.host);
  await vm.hand.run(cgroupRemoval(state.cgroup, vm.host));
}
