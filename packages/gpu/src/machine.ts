/** What NVML says of this machine's GPUs, for a person. */
import { openNvml } from "./generate/machine.ts";

export interface MachineGpus {
  readonly driver: string;
  /** The newest that the driver knows, as "12.2". */
  readonly cuda: string;
  readonly gpus: readonly { readonly name: string; readonly uuid: string; readonly bytes: number }[];
}

/** `root`: the driver's. Throws Error where there is no driver, and NvmlError. */
export function describeGpus(root: string): MachineGpus {
  using nvml = openNvml(root.replace(/\/+$/, ""));
  const gpus = nvml.gpus().map((gpu) => ({ name: nvml.name(gpu), uuid: nvml.uuid(gpu), bytes: nvml.totalMemory(gpu) }));
  return { driver: nvml.driverVersion(), cuda: nvml.cudaVersion(), gpus };
}
