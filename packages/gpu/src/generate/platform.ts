/** What kind of system a driver's root is of: that decides what is asked about its GPUs. */
import { readFileSync, statSync } from "node:fs";
import { Nvml } from "../nvml/library.ts";
import { Driver } from "./driver.ts";
import { isWsl } from "./wsl.ts";

/** csv: a Tegra, whose GPU is part of the chip. */
export type Platform = "csv" | "nvml" | "wsl";

/** Throws NvmlError. */
export function platformOf(root: string): Platform {
  if (isWsl(root)) return "wsl";
  return isTegra(root) ? "csv" : "nvml";
}

function isTegra(root: string): boolean {
  const library = Driver.findNvml(root);
  if (library === undefined) return hasTegraFiles(root);
  // NVML takes its time to start, and knows such a GPU on no other machine.
  if (process.arch !== "arm64" && !hasTegraFiles(root)) return false;
  using nvml = new Nvml(library);
  return nvml.gpus().some((gpu) => isIntegratedName(nvml.name(gpu)));
}

function hasTegraFiles(root: string): boolean {
  if (isFile(`${root}/etc/nv_tegra_release`)) return true;
  const family = `${root}/sys/devices/soc0/family`;
  return isFile(family) && readFileSync(family, "utf8").toLowerCase().startsWith("tegra");
}

function isFile(path: string): boolean {
  return statSync(path, { throwIfNoEntry: false })?.isFile() === true;
}

/** "Orin (nvgpu)", "NVIDIA Thor". */
export const isIntegratedName = (name: string): boolean => name.includes("(nvgpu)") || name.includes("NVIDIA Thor");
