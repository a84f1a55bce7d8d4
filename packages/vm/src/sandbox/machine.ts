/** A pod's machine: started, found again after a restart, and taken away. */
import { chown, mkdir, readFile, rename, writeFile } from "node:fs/promises";
import { killCgroup, MonitorLost, type MonitorLink, type Order } from "@berth/kernel";
import { cgroupRemoval } from "@berth/runtime";
import type { VmSettings } from "../configuration/settings.ts";
import { VmError } from "../errors.ts";
import { machineShape } from "../hypervisor/choose.ts";
import { hypervisorOf } from "../hypervisor/drivers.ts";
import type { Capabilities, Hypervisor, Machine, Nic, Vm } from "../hypervisor/machine.ts";
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
import { startKataGuest } from "./kata.ts";
import { openedAgent, openedBosun, type OpenedGuest } from "./opened.ts";
import {
  GUEST_SHARE,
  GUEST_SHM,
  machineDirectory,
  PROGRAMS,
  relaySocket,
  SHARE_TAG,
  stateFile,
  virtiofsSocket,
  type VmHost,
} from "./host.ts";
import {
  endProgram,
  execOrder,
  failsWith,
  findProgram,
  lastWords,
  startProgram,
  type ProgramPlace,
} from "./programs.ts";
import { shareOrders, shareRemoval } from "./share.ts";
import { isSizedAtStart, type Limits } from "./size.ts";
import { clockParameters } from "./clock.ts";
import { coldPlugged } from "./devices.ts";
import { admit, becomeOrders, vmUser } from "./unprivileged.ts";
import { startVirtiofsd } from "./virtiofsd.ts";

export interface MachineRequest {
  /** The pod's. */
  readonly id: string;
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
  /** Resolves, with the reason, when the hypervisor or what it stands on has ended. */
  readonly ended: Promise<string>;
  /** Ends the connections; the machine runs on. */
  close(): Promise<void>;
}

/** What a later berthd must know: machine.json. */
interface MachineState {
  readonly settings: VmSettings;
  readonly accelerator: "kvm" | "tcg";
  readonly cgroup: string;
  /** Undefined: it was not started. */
  readonly machine?: Machine;
}

/** Rejects with VmError, or the signal's reason; what was made is for removeMachine to take away. */
export async function startMachine(vm: VmHost, request: MachineRequest): Promise<PodMachine> {
  const { id, settings, netns, cgroup, signal, onStep } = request;
  const directory = machineDirectory(vm, id);
  const place: ProgramPlace = { cgroup };
  onStep?.("prepare the virtual machine");
  const files = await guestFilesOf(vm, settings);
  const { accelerator } = await findAcceleratorOf(vm, settings, files);
  const hypervisor = hypervisorOf(settings, accelerator);
  await mkdir(directory, { recursive: true, mode: 0o700 });
  const state: MachineState = { settings, accelerator, cgroup };
  await writeState(directory, state);
  await vm.hand.run({ orders: shareOrders(directory) }, signal ? { signal } : {});
  const hasShare = settings.hypervisor.shared_fs === "virtio-fs";
  const interfaces =
    netns === undefined || settings.runtime.internetworking_model === "none" ? [] : await podInterfaces(vm.hand, netns);
  if (hasShare) await startVirtiofsd(vm, directory, settings, place, signal);
  const user = settings.hypervisor.rootless ? await vmUser(id) : undefined;
  if (user) await admit(directory, user);
  if (user && hasShare) await chown(virtiofsSocket(directory), user.uid, user.uid);

  onStep?.("start the hypervisor");
  const isMacvtap = settings.runtime.internetworking_model === "macvtap";
  const taps = isMacvtap ? await makeMacvtaps(vm.hand, netns ?? "", id, interfaces) : user ? openTaps(interfaces) : [];
  const limits = isSizedAtStart(settings, hypervisor.capabilities) ? request.limits : undefined;
  const shape = machineShape(settings, files, limits);
  const machine: Machine = {
    ...shape,
    commandLine: [...shape.commandLine, ...(await clockParameters(vm.hand, settings, accelerator))],
    id,
    directory,
    shares: hasShare
      ? [
          {
            tag: files.agent === undefined ? SHARE_TAG : AGENT_SHARE_TAG,
            socket: virtiofsSocket(directory),
            queueSize: settings.hypervisor.virtio_fs_queue_size,
            cacheSize: settings.hypervisor.virtio_fs_cache_size,
          },
        ]
      : [],
    nics: interfaces.map((own, index) => ({ ...nicOf(settings, own, index), fd: taps[index]?.fd })),
    disks: [],
    devices: await coldPlugged(settings, request.devices ?? []),
  };
  const program = hypervisor.program(machine);
  await writeState(directory, { ...state, machine });
  const own = [...taps.flatMap(({ orders }) => orders), ...(user ? becomeOrders(user) : [])];
  const hypervisorPlace = { ...place, netns, own };
  const link = await startProgram(vm, directory, "hypervisor", execOrder(program), hypervisorPlace, signal);
  const failed = failsWith(directory, "hypervisor", link);
  failed.catch(() => {});
  const control = await Promise.race([connectControl(hypervisor, machine, signal), failed]);
  const channel = hypervisor.channel(machine);
  if (channel.by === "relay") await startRelay(vm, directory, channel.channel, place, signal);
  await Promise.race([control.boot(), failed]);
  if (netns !== undefined && !isMacvtap) {
    const limits = hypervisor.capabilities.limitsNics ? undefined : nicRates(settings);
    await redirect(vm.hand, netns, interfaces, limits);
  }

  onStep?.("wait for the guest");
  const guest = await Promise.race([startGuest(vm, machine, request, interfaces), failed]);
  return opened({ machine, settings, hypervisor, vm: control, guest, link });
}

async function startGuest(
  vm: VmHost,
  machine: Machine,
  request: MachineRequest,
  interfaces: readonly PodInterface[],
): Promise<OpenedGuest> {
  if (machine.agent !== undefined) return openedAgent(await startKataGuest(vm, machine, request, interfaces));
  const { settings, signal, onStep } = request;
  const timeoutMs = settings.agent.dial_timeout * 1000;
  const guest = await connectGuest(machine.directory, { timeoutMs, signal });
  onStep?.("set up the guest");
  await guest.hand.run({ orders: guestOrders(request, machine.shares.length > 0) }, signal ? { signal } : {});
  await configureGuestNetwork(guest.hand, interfaces);
  return openedBosun(machine.directory, guest);
}

async function connectControl(hypervisor: Hypervisor, machine: Machine, signal?: AbortSignal): Promise<Vm> {
  const limit = AbortSignal.timeout(CONTROL_MS);
  try {
    return await hypervisor.connect(machine, signal ? AbortSignal.any([signal, limit]) : limit);
  } catch (error) {
    if (error !== limit.reason) throw error;
    throw new VmError("Hypervisor", `${hypervisor.name} did not listen for orders within ${CONTROL_MS / 1000} s`);
  }
}

const CONTROL_MS = 30_000;

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

/** Started means that it listens. */
async function startRelay(
  vm: VmHost,
  directory: string,
  channel: string,
  place: ProgramPlace,
  signal: AbortSignal | undefined,
): Promise<void> {
  const end: Order = { order: "relay", args: { channel, listen: relaySocket(directory) } };
  const link = await startProgram(vm, directory, "relay", end, place, signal);
  link.close();
}

const MS_NOSUID_NODEV_NOEXEC = 0xen;

function guestOrders({ hostname, shmSize, sysctls }: MachineRequest, hasShare: boolean): Order[] {
  const directory = (path: string): Order => ({ order: "mkdir", args: { path, mode: 0o755, existOk: 1, parents: 1 } });
  const share: Order[] = hasShare
    ? [
        directory(GUEST_SHARE),
        { order: "mount", args: { source: SHARE_TAG, target: GUEST_SHARE, fstype: "virtiofs", flags: 0n, data: "" } },
      ]
    : [];
  return [
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
  const { settings } = state;
  const hypervisor = hypervisorOf(settings, state.accelerator);
  const vm = await connectControl(hypervisor, machine);
  const timeoutMs = settings.agent.dial_timeout * 1000;
  const warn = (message: string): void => host.log("warn", message);
  const agent = await findAgentSandbox(directory, { timeoutMs, warn });
  const guest = agent ? openedAgent(agent) : openedBosun(directory, await connectGuest(directory, { timeoutMs }));
  return opened({ machine, settings, hypervisor, vm, guest, link });
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

async function readState(directory: string): Promise<MachineState | undefined> {
  try {
    return JSON.parse(await readFile(stateFile(directory), "utf8")) as MachineState;
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === "ENOENT") return undefined;
    throw error;
  }
}

async function writeState(directory: string, state: MachineState): Promise<void> {
  await writeFile(`${stateFile(directory)}.new`, JSON.stringify(state));
  await rename(`${stateFile(directory)}.new`, stateFile(directory));
}

interface Parts {
  readonly machine: Machine;
  readonly settings: VmSettings;
  readonly hypervisor: Hypervisor;
  readonly vm: Vm;
  readonly guest: OpenedGuest;
  readonly link: MonitorLink;
}

function opened({ machine, settings, hypervisor, vm, guest, link }: Parts): PodMachine {
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
    ended: Promise.race([exited, guest.lost]),
    close: async () => {
      link.close();
      vm.close();
      await guest.close();
    },
  };
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
