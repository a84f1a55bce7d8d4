/** The host's devices (/dev/vfio/N) in machines: from the start, or while they run. The guest's kernel has them as its own. */
import type { oci } from "@berth/spec";
import type { VmSettings } from "../configuration/settings.ts";
import { VmError } from "../errors.ts";
import { vfioDevices, vfioGroupOf } from "../hypervisor/vfio.ts";
import type { VfioDevice } from "../hypervisor/vfio.ts";
import type { PodMachine } from "./machine.ts";

const NO_PORT = "no-port";
const SYSFS = "/sys";

type Plugged = Pick<PodMachine, "machine" | "settings" | "capabilities" | "vm">;

const groupsOf = (nodes: readonly string[]): string[] => [
  ...new Set(nodes.map(vfioGroupOf).filter((group) => group !== undefined)),
];

/** Those of a pod that are known before its machine is started, where the configuration has them plugged then. Rejects with VmError. */
export async function coldPlugged(
  { hypervisor }: VmSettings,
  nodes: readonly string[],
  sysfs = SYSFS,
): Promise<VfioDevice[]> {
  if (hypervisor.cold_plug_vfio === NO_PORT) return [];
  return (await Promise.all(groupsOf(nodes).map((group) => vfioDevices(group, sysfs)))).flat();
}

const nodesOf = (spec: oci.Spec): string[] => (spec.linux?.devices ?? []).map(({ path }) => path);

/** Plugs the groups that a container names and the machine has not yet; its config without their nodes, which a guest has no use for. */
export async function plugDevices(machine: Plugged, spec: oci.Spec, sysfs = SYSFS): Promise<oci.Spec> {
  const groups = groupsOf(nodesOf(spec));
  if (groups.length === 0) return spec;
  const has = new Set(machine.machine.devices.map(({ id }) => id));
  for (const group of groups) {
    const devices = await vfioDevices(group, sysfs);
    if (devices.every(({ id }) => has.has(id))) continue;
    checkHotPlug(machine, group);
    for (const device of devices) await machine.vm.addDevice(device);
  }
  return {
    ...spec,
    linux: { ...spec.linux, devices: spec.linux?.devices?.filter(({ path }) => !vfioGroupOf(path)) ?? [] },
  };
}

/** What plugDevices has plugged for a container whose nodes these were. */
export async function unplugDevices(machine: Plugged, nodes: readonly string[], sysfs = SYSFS): Promise<void> {
  const has = new Set(machine.machine.devices.map(({ id }) => id));
  for (const group of groupsOf(nodes))
    for (const { id } of await vfioDevices(group, sysfs)) if (!has.has(id)) await machine.vm.removeDevice(id);
}

function checkHotPlug({ settings, capabilities }: Plugged, group: string): void {
  const { hypervisor, name } = settings;
  if (capabilities.vfio && (hypervisor.hot_plug_vfio !== NO_PORT || hypervisor.hotplug_vfio_on_root_bus)) return;
  const why = capabilities.vfio
    ? 'hot_plug_vfio is "no-port"; set "root-port"'
    : `[hypervisor.${name}] takes no VFIO devices`;
  throw new VmError("Unsupported", `/dev/vfio/${group}: ${why}`);
}
