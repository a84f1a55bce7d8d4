/** What a MIG device is, as nvidia-smi names it: "1g.5gb", "1c.2g.10gb", "1g.5gb+me". */
import type { Handle, MigAttributes, Nvml } from "./library.ts";

const GIB = 2 ** 30;
const MIB = 2 ** 20;
const EIGHTHS = 8;

/** What a GPU instance has or lacks, by NVML's number of its profile: media engines, graphics. */
const EXTRAS: ReadonlyMap<number, string> = new Map([
  [7, "+me"],
  [8, "+me"],
  [10, "+gfx"],
  [11, "+gfx"],
  [12, "+gfx"],
  [13, "-me"],
  [14, "-me"],
  [15, "+me.all"],
  [16, "+me.all"],
  [17, "+gfx"],
]);

/** `gpu`: the one that `mig` is a part of. */
export function profileName(nvml: Nvml, gpu: Handle, mig: Handle): string {
  const profile = nvml.migProfile(gpu, nvml.gpuInstanceId(mig), nvml.computeInstanceId(mig));
  const extra = profile === undefined ? "" : (EXTRAS.get(profile.gpu) ?? "");
  return `${sizeName(nvml.migAttributes(mig), nvml.totalMemory(gpu))}${extra}`;
}

/** A device has whole eighths of its GPU's memory. */
export function sizeName(
  { gpuSlices, computeSlices, memoryMib }: Pick<MigAttributes, "gpuSlices" | "computeSlices" | "memoryMib">,
  totalBytes: number,
): string {
  const eighths = Math.ceil(((memoryMib * MIB) / totalBytes) * EIGHTHS) / EIGHTHS;
  const memory = Math.round(eighths * Math.ceil(totalBytes / GIB));
  const compute = computeSlices === gpuSlices ? "" : `${computeSlices}c.`;
  return `${compute}${gpuSlices}g.${memory}gb`;
}
