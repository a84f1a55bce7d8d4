/** The machine of this shim: booted for its first container, gone with it. */
import {
  DEFAULT_IMAGE_DIRECTORY,
  loadSettings,
  type PodMachine,
  removeMachine,
  startMachine,
  type VmHost,
} from "@berth/vm";
import type { oci } from "@berth/spec";
import { runtimeOptions } from "@berth/spec/shim";
import type { Any } from "@bufbuild/protobuf/wkt";
import { unpackMessage } from "../any.ts";
import type { Machine } from "../server/making.ts";
import { machinesDirectory } from "../server/place.ts";
import { podLimits } from "./limits.ts";
import { CODE, TtrpcError } from "@berth/ttrpc";

/** As the CRI's, for those who do not say. */
const SHM_BYTES = 64 << 20;

export const vmHostOf = ({ hand, host, log }: Pick<Machine, "hand" | "host"> & Partial<Machine>): VmHost => ({
  hand,
  host,
  machines: machinesDirectory,
  image: DEFAULT_IMAGE_DIRECTORY,
  log: (_level, message) => log?.(message),
});

/** Of the hypervisor and its helpers: beside its container's. */
export const machineCgroup = (cgroup: string): string => `${cgroup}-vm`;

export interface MachineAsked {
  /** Of the machine. */
  readonly id: string;
  /** Of the container that it is booted for. */
  readonly spec: oci.Spec;
  readonly cgroup: string;
  /** As containerd has encoded them. */
  readonly options: Any | undefined;
}

/** Where this fails, what it has made is for removeMachine. */
export async function bootMachine(vm: VmHost, { id, spec, cgroup, options }: MachineAsked): Promise<PodMachine> {
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
  return await startMachine(vm, {
    id,
    pod: annotations["io.kubernetes.cri.sandbox-id"],
    settings,
    // A new one has nothing in it that the machine could have.
    netns: network.path || undefined,
    cgroup: machineCgroup(cgroup),
    hostname,
    shmSize: SHM_BYTES,
    sysctls: linux?.sysctl ?? {},
    limits: podLimits(spec),
  });
}

/** Idempotent. */
export const dropMachine = (vm: VmHost, id: string): Promise<void> => removeMachine(vm, id);
