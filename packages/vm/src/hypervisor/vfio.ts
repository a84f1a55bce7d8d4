/** Devices of the host's for one machine alone: the groups that an IOMMU keeps apart (Documentation/driver-api/vfio.rst). */
import { readdir, readFile, readlink } from "node:fs/promises";
import { basename } from "node:path";
import { VmError } from "../errors.ts";

export interface VfioDevice {
  /** Unique in the machine, as "vfio12-0". */
  readonly id: string;
  /** On PCI, as "0000:01:00.0". */
  readonly address: string;
  /** In sysfs. */
  readonly path: string;
}

const DRIVER = "vfio-pci";
/** PCI's class of bridges, whose group's other devices can be handed over with them left where they are. */
const BRIDGE = /^0x0604/;
const GROUP = /^\/dev\/vfio\/(\d+)$/;

/** The number of the group that a device node is; undefined: it is none. */
export const vfioGroupOf = (node: string): string | undefined => GROUP.exec(node)?.[1];

/** All of a group: it is handed over as a whole. Rejects with VmError Missing, or Unsupported where it is not viable. */
export async function vfioDevices(group: string, sysfs = "/sys"): Promise<VfioDevice[]> {
  const directory = `${sysfs}/kernel/iommu_groups/${group}/devices`;
  let addresses: string[];
  try {
    addresses = (await readdir(directory)).sort();
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code !== "ENOENT") throw error;
    throw new VmError("Missing", `/dev/vfio/${group}: no such IOMMU group; is the IOMMU on (intel_iommu=on)?`);
  }
  const devices: VfioDevice[] = [];
  for (const address of addresses) {
    const path = `${sysfs}/bus/pci/devices/${address}`;
    if (BRIDGE.test(await readFile(`${path}/class`, "utf8"))) continue;
    const driver = await driverOf(path);
    if (driver !== DRIVER)
      throw new VmError(
        "Unsupported",
        `/dev/vfio/${group} is not viable: ${address} ${driver === undefined ? "has no driver" : `is ${driver}'s`}; bind every device of the group to ${DRIVER}`,
      );
    devices.push({ id: `vfio${group}-${devices.length}`, address, path });
  }
  if (devices.length === 0)
    throw new VmError("Missing", `/dev/vfio/${group}: the group has no device that could be handed over`);
  return devices;
}

async function driverOf(path: string): Promise<string | undefined> {
  try {
    return basename(await readlink(`${path}/driver`));
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === "ENOENT") return undefined;
    throw error;
  }
}
