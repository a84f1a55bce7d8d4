/** The machine of this shim: booted for its first container, gone with it. */
import {
  allowSandbox,
  DEFAULT_IMAGE_DIRECTORY,
  DEFAULT_POLICY,
  Factory,
  forgetDirectVolumes,
  guardedMachine,
  loadSettings,
  machineDirectory,
  type MachineCounters,
  manageMachine,
  pinOrders,
  PodPolicy,
  type PodMachine,
  removeMachine,
  removeManagement,
  startMachine,
  unpinOrders,
  type VmHost,
} from "@berth/vm";
import type { Order } from "@berth/kernel";
import type { oci } from "@berth/spec";
import { runtimeOptions } from "@berth/spec/shim";
import type { Any } from "@bufbuild/protobuf/wkt";
import { unpackMessage } from "../any.ts";
import type { Machine } from "../server/making.ts";
import { bosun, machinesDirectory } from "../server/place.ts";
import { podLimits } from "./limits.ts";
import { sandboxesDirectory, templatesDirectory } from "./place.ts";
import { CODE, TtrpcError } from "@berth/ttrpc";

/** As the CRI's, for those who do not say. */
const SHM_BYTES = 64 << 20;

export const vmHostOf = ({ hand, host, log }: Pick<Machine, "hand" | "host"> & Partial<Machine>): VmHost => ({
  hand,
  host,
  bosun,
  machines: machinesDirectory,
  image: DEFAULT_IMAGE_DIRECTORY,
  factory: new Factory(templatesDirectory),
  log: (_level, message) => log?.(message),
});

/** Of the hypervisor and its helpers: beside its container's. */
export const machineCgroup = (cgroup: string): string => `${cgroup}-vm`;

export interface MachineAsked {
  /** Of the machine. */
  readonly id: string;
  /** Of the container that it is booted for: of the pod. */
  readonly pod: string;
  readonly spec: oci.Spec;
  readonly cgroup: string;
  /** As containerd has encoded them. */
  readonly options: Any | undefined;
  readonly counters: MachineCounters;
}

export interface Booted {
  /** Behind its policy. */
  readonly machine: PodMachine;
  /** Where its interfaces come from. */
  readonly netns: string;
  /** Ends the connections, and what manages it; the machine runs on. */
  close(): Promise<void>;
}

/** Where this fails, what it has made is for dropMachine. */
export async function bootMachine(vm: VmHost, asked: MachineAsked): Promise<Booted> {
  const { id, pod, spec, options } = asked;
  const { annotations = {}, hostname = "", linux } = spec;
  const network = linux?.namespaces?.find(({ type }) => type === "network");
  if (!network)
    throw new TtrpcError(
      CODE.invalidArgument,
      "linux.namespaces: a virtual machine cannot be on the node's network; give the container a network namespace",
    );
  const settings = await loadSettings({
    named: unpackMessage(options, runtimeOptions.OptionsSchema)?.configPath || undefined,
    environment: process.env["KATA_CONF_FILE"],
    annotations,
  });
  for (const warning of settings.warnings) vm.log("warn", warning);
  if (settings.factory.vm_cache_number > 0)
    vm.log("warn", "vm_cache_number: machines wait for pods of berthd's; a shim has the one of its pod");
  const policy = await PodPolicy.open({ annotations, file: DEFAULT_POLICY });
  allowSandbox(policy, { id: pod, hostname, networked: Boolean(network.path) });
  const netns = network.path || (await ownNetwork(vm, id));
  const machine = await startMachine(vm, {
    id,
    pod,
    settings,
    netns,
    cgroup: machineCgroup(asked.cgroup),
    hostname,
    shmSize: SHM_BYTES,
    sysctls: linux?.sysctl ?? {},
    limits: podLimits(spec),
    devices: linux?.devices?.map(({ path }) => path),
    policy: policy.text,
  });
  await policy.keepIn(machine.directory);
  return await managed(vm, asked, guardedMachine(machine, { policy, counters: asked.counters }), policy, netns);
}

/** As berthd's pods are: its containers do not depend on it. */
async function managed(
  vm: VmHost,
  { pod, cgroup, counters }: MachineAsked,
  machine: PodMachine,
  policy: PodPolicy,
  netns: string,
): Promise<Booted> {
  let management: AsyncDisposable | undefined;
  try {
    management = await manageMachine({
      id: pod,
      machine,
      policy,
      counters,
      cgroup: machineCgroup(cgroup),
      host: vm.host,
      sandboxes: sandboxesDirectory,
      log: vm.log,
    });
  } catch (error) {
    vm.log("error", `berth-vm and kata-monitor cannot reach the virtual machine: ${(error as Error).message}`);
  }
  return {
    machine,
    netns,
    close: async () => {
      await management?.[Symbol.asyncDispose]();
      await machine.close();
    },
  };
}

const ownNetns = (vm: VmHost, id: string): string => `${machineDirectory(vm, id)}/netns`;

/** For a container that no CRI has made one for: empty, until a CNI plugin is called for the container. */
async function ownNetwork(vm: VmHost, id: string): Promise<string> {
  const path = ownNetns(vm, id);
  const directory: Order = {
    order: "mkdir",
    args: { path: machineDirectory(vm, id), mode: 0o700, existOk: 1, parents: 1 },
  };
  await vm.hand.run({ orders: [directory, ...pinOrders(path)] });
  return path;
}

/** Idempotent. `pod`: as it was asked for by. */
export async function dropMachine(vm: VmHost, id: string, pod: string): Promise<void> {
  await removeManagement(sandboxesDirectory, pod);
  await vm.hand.run({ orders: unpinOrders(ownNetns(vm, id)) });
  await removeMachine(vm, id);
  await forgetDirectVolumes(pod);
}
