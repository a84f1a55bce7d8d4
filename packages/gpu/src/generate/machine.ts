/** A CDI specification of the GPUs of a machine, whichever kind of machine it is. */
import type { CdiSpec } from "@berth/cdi/injection";
import { Nvml } from "../nvml/library.ts";
import { NVML_NAME } from "../nvml/name.ts";
import { type CsvOptions, generateCsv } from "./csv.ts";
import { Driver } from "./driver.ts";
import { generate } from "./nvml.ts";
import type { Platform } from "./platform.ts";
import { generateWsl } from "./wsl.ts";

export type MachineOptions = CsvOptions;

/** Throws Error naming what is missing, and NvmlError. */
export function generateMachine(platform: Platform, options: MachineOptions): CdiSpec {
  switch (platform) {
    case "wsl":
      return generateWsl(options);
    case "csv": {
      using nvml = foundNvml(options.driverRoot, options.librarySearchPaths);
      return generateCsv(nvml, options);
    }
    case "nvml": {
      using nvml = openNvml(options.driverRoot, options.librarySearchPaths);
      return generate(nvml, options);
    }
  }
}

/** The root's library, else the one that the linker finds. Throws where there is none, and NvmlError. */
export function openNvml(root: string, searchPaths?: readonly string[]): Nvml {
  return foundNvml(root, searchPaths) ?? new Nvml(NVML_NAME);
}

/** undefined: the root has none. */
export function foundNvml(root: string, searchPaths?: readonly string[]): Nvml | undefined {
  const path = Driver.findNvml(root, searchPaths);
  return path === undefined ? undefined : new Nvml(path);
}
