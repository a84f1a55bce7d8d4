/** Whether GPUs are virtual, by what the hypervisor's driver writes into their PCI configuration. */
import { readdirSync, readFileSync } from "node:fs";
import { join } from "node:path";
import type { Labels } from "./resource.ts";

const NVIDIA = "0x10de";
/** Offsets in the configuration, and in a capability (PCI Local Bus Specification 3.0, 6.7). */
const CONFIGURATION = { size: 256, status: 0x06, capabilities: 0x34 } as const;
const HAS_CAPABILITIES = 0x10;
const VENDOR_SPECIFIC = 0x09;
const NO_CAPABILITY = 0xff;
/** Of a virtual GPU's capability: "VF" behind its head, then records: a number, a length, and for number 0 the host's driver. */
const SIGNATURE = Buffer.from("VF");
const SIGNATURE_AT = 3;
const RECORDS_AT = 5;
const TEXT = 10;

/** `pciDevices`: /sys/bus/pci/devices. Throws Error where it cannot be read: that takes root. */
export function vgpuLabels(pciDevices: string): Labels {
  const virtual = readdirSync(pciDevices).flatMap((address) => {
    const read = (name: string): Buffer => readFileSync(join(pciDevices, address, name));
    if (read("vendor").toString().trim() !== NVIDIA) return [];
    const capability = vendorCapability(read("config"), address);
    const isVirtual = capability?.subarray(SIGNATURE_AT, RECORDS_AT).equals(SIGNATURE) === true;
    return isVirtual && capability ? [hostDriver(capability, address)] : [];
  });
  const last = virtual.at(-1);
  return {
    "nvidia.com/vgpu.present": String(virtual.length > 0),
    ...(last && {
      "nvidia.com/vgpu.host-driver-version": last.version,
      "nvidia.com/vgpu.host-driver-branch": last.branch,
    }),
  };
}

/** undefined: it has none. */
function vendorCapability(config: Buffer, address: string): Buffer | undefined {
  if (config.length < CONFIGURATION.size)
    throw new Error(`the PCI configuration of ${address} can be read in part only: that takes a privileged container`);
  const byte = (at: number): number => config[at] ?? 0;
  if ((byte(CONFIGURATION.status) & HAS_CAPABILITIES) === 0) return undefined;
  const seen = new Set<number>();
  for (let at = byte(CONFIGURATION.capabilities); at !== 0 && !seen.has(at); at = byte(at + 1)) {
    if (byte(at) === NO_CAPABILITY) return undefined;
    if (byte(at) === VENDOR_SPECIFIC) return config.subarray(at, at + byte(at + 2));
    seen.add(at);
  }
  return undefined;
}

function hostDriver(capability: Buffer, address: string): { version: string; branch: string } {
  let at = RECORDS_AT;
  while (at < capability.length && capability[at] !== 0) {
    const length = capability[at + 1] ?? 0;
    // Else it would never end.
    if (length === 0) break;
    at += length;
  }
  const text = capability.subarray(at + 2, at + 2 + 2 * TEXT);
  if (capability[at] !== 0 || text.length < 2 * TEXT)
    throw new Error(`cannot find driver version record in vendor specific capability for device ${address}`);
  const word = (from: number): string => text.toString("latin1", from, from + TEXT).replace(/^\0+|\0+$/g, "");
  return { version: word(0), branch: word(TEXT) };
}
