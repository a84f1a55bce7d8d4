/** What NVML and sysfs know of this machine's GPUs, as far as node labels tell of it. */
import { readFileSync } from "node:fs";
import { join } from "node:path";
import type { Fabric, Handle, MigAttributes, Nvml } from "../nvml/library.ts";
import { profileName } from "../nvml/mig-profile.ts";

export interface MigFacts {
  /** "1g.5gb"; what comes behind a "+" elsewhere comes behind a "." in labels. */
  readonly profile: string;
  readonly attributes: MigAttributes;
}

export interface GpuFacts {
  readonly name: string;
  /** undefined: NVML cannot tell. */
  readonly memoryMib: number | undefined;
  readonly compute: { readonly major: number; readonly minor: number };
  readonly isMigCapable: boolean;
  /** undefined: it is not divided. */
  readonly parts: readonly MigFacts[] | undefined;
  /** Of PCI; undefined: sysfs cannot tell. */
  readonly pciClass: number | undefined;
  readonly fabric: Fabric | undefined;
}

export interface NodeFacts {
  /** "525.147.05". */
  readonly driver: string;
  /** "12.0". */
  readonly cuda: string;
  readonly gpus: readonly GpuFacts[];
}

const MIB = 2 ** 20;
const NVIDIA = 0x10de;

type Warn = (text: string) => void;

/** `pciDevices`: /sys/bus/pci/devices. `warn`: of what a label is left out for. Throws NvmlError. */
export function nodeFacts(nvml: Nvml, pciDevices: string, warn: Warn): NodeFacts {
  return {
    driver: nvml.driverVersion(),
    cuda: nvml.cudaVersion(),
    gpus: nvml.gpus().map((gpu) => gpuFacts(nvml, gpu, pciDevices, warn)),
  };
}

function gpuFacts(nvml: Nvml, gpu: Handle, pciDevices: string, warn: Warn): GpuFacts {
  const [major = 0, minor = 0] = nvml.computeCapability(gpu).split(".").map(Number);
  const parts = nvml.isMigEnabled(gpu)
    ? nvml.migDevices(gpu).map(({ handle }) => ({
        profile: profileName(nvml, gpu, handle).replaceAll("+", "."),
        attributes: nvml.migAttributes(handle),
      }))
    : undefined;
  return {
    name: nvml.name(gpu),
    memoryMib: memoryOf(nvml, gpu, warn),
    compute: { major, minor },
    isMigCapable: nvml.isMigCapable(gpu),
    parts,
    pciClass: classOf(join(pciDevices, nvml.pciBusId(gpu)), warn),
    fabric: nvml.fabric(gpu),
  };
}

/** Some GPUs have none of their own, and NVML then says that it is not supported. */
function memoryOf(nvml: Nvml, gpu: Handle, warn: Warn): number | undefined {
  try {
    return Math.floor(nvml.totalMemory(gpu) / MIB);
  } catch (error) {
    warn(`ignoring error getting memory info for device: ${(error as Error).message}`);
    return undefined;
  }
}

function classOf(device: string, warn: Warn): number | undefined {
  const read = (name: string): number => Number(readFileSync(join(device, name), "utf8").trim());
  try {
    return read("vendor") === NVIDIA ? read("class") : undefined;
  } catch (error) {
    warn(`the mode of a GPU is not known: ${(error as Error).message}`);
    return undefined;
  }
}
