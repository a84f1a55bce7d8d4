/** `cdi generate`: from its flags to a specification. */
import type { CdiSpec } from "@berth/cdi";
import { Driver } from "../generate/driver.ts";
import { hookMaker } from "../generate/hooks.ts";
import { generate, NAME_STRATEGIES, type NameStrategy } from "../generate/nvml.ts";
import { generateManagement } from "../generate/management.ts";
import { Nvml } from "../nvml/library.ts";

export const MODES = ["auto", "nvml", "management"] as const;
const MISSING_MODES = ["csv", "gdrcopy", "gds", "imex", "mofed", "nvswitch", "wsl"];
const NVML_NAME = "libnvidia-ml.so.1";

export interface GenerateFlags {
  readonly mode: string;
  readonly deviceNameStrategy?: readonly string[];
  readonly driverRoot: string;
  readonly devRoot?: string;
  readonly nvidiaCdiHookPath: string;
  readonly ldconfigPath?: string;
  readonly vendor: string;
  readonly class: string;
  readonly disableHook?: readonly string[];
  readonly allDevice: boolean;
  readonly deviceId?: readonly string[];
}

/** Throws Error naming the flag, or what is missing of the driver. */
export function generateSpec(flags: GenerateFlags): CdiSpec {
  if (MISSING_MODES.includes(flags.mode))
    throw new Error(`--mode ${flags.mode} is not supported by this version of berth`);
  if (!(MODES as readonly string[]).includes(flags.mode)) throw new Error(`invalid discovery mode: ${flags.mode}`);
  const root = flags.driverRoot.replace(/\/+$/, "");
  const names = (flags.deviceNameStrategy ?? ["index", "uuid"]).map(strategyOf);
  const common = {
    driverRoot: root,
    devRoot: (flags.devRoot ?? root).replace(/\/+$/, ""),
    kind: `${flags.vendor}/${flags.class}`,
    hooks: hookMaker(flags.nvidiaCdiHookPath, flags.disableHook ?? []),
    ldconfigPath: flags.ldconfigPath,
  };
  if (flags.mode === "management") return generateManagement(common);
  using nvml = new Nvml(Driver.findNvml(root) ?? NVML_NAME);
  return generate(nvml, { ...common, names, ids: flags.deviceId ?? ["all"], all: flags.allDevice });
}

function strategyOf(name: string): NameStrategy {
  const found = NAME_STRATEGIES.find((strategy) => strategy === name);
  if (found === undefined) throw new Error(`invalid device name strategy: ${name}`);
  return found;
}
