/** `cdi generate`: from its flags to a specification. */
import type { CdiSpec } from "@berth/cdi";
import { BASE_FILES, CSV_DIR, generateCsv } from "../generate/csv.ts";
import { Driver } from "../generate/driver.ts";
import { GATED_MODES, generateGated, generateImex } from "../generate/gated.ts";
import { hookMaker } from "../generate/hooks.ts";
import { generate, NAME_STRATEGIES, type NameStrategy } from "../generate/nvml.ts";
import { generateManagement } from "../generate/management.ts";
import { merged, tidy, withoutGroups } from "../generate/tidy.ts";
import { generateWsl, isWsl } from "../generate/wsl.ts";
import { NVML_NAME } from "../nvml/name.ts";
import { Nvml } from "../nvml/library.ts";
import { isTegra } from "../runtime/mode.ts";

export const MODES = ["auto", "csv", ...GATED_MODES, "imex", "management", "nvml", "wsl"].sort();
/** Of the reference's: what has no effect here, because it turns off what is not done. */
const NO_FEATURE = ["disable-nvsandboxutils", "disable-nvsandbox-utils", "disable-multiple-csv-devices"];

export interface GenerateFlags {
  readonly mode: string;
  readonly deviceNameStrategy?: readonly string[];
  readonly driverRoot: string;
  readonly devRoot?: string;
  readonly librarySearchPath?: readonly string[];
  readonly configSearchPath?: readonly string[];
  readonly nvidiaCdiHookPath: string;
  readonly ldconfigPath?: string;
  readonly vendor: string;
  readonly class: string;
  readonly "csv.file"?: readonly string[];
  readonly "csv.ignorePattern"?: readonly string[];
  readonly "csv.compatContainerRoot"?: string;
  readonly disableHook?: readonly string[];
  readonly enableHook?: readonly string[];
  readonly featureFlag?: readonly string[];
  readonly allDevice: boolean;
  readonly deviceId?: readonly string[];
}

/** Throws Error naming the flag, or what is missing of the driver. */
export function generateSpec(flags: GenerateFlags): CdiSpec {
  const { withGroups, ...features } = featuresOf(flags.featureFlag ?? []);
  const spec = specOf(flags, features);
  return withGroups ? spec : withoutGroups(spec);
}

function specOf(flags: GenerateFlags, features: { readonly withoutSockets: boolean }): CdiSpec {
  if (!MODES.includes(flags.mode))
    throw new Error(`invalid discovery mode: ${flags.mode} (one of ${MODES.join(", ")})`);
  const root = flags.driverRoot.replace(/\/+$/, "");
  const names = (flags.deviceNameStrategy ?? ["index", "uuid"]).map(strategyOf);
  const common = {
    driverRoot: root,
    devRoot: (flags.devRoot ?? root).replace(/\/+$/, ""),
    kind: `${flags.vendor}/${flags.class}`,
    hooks: hookMaker(flags.nvidiaCdiHookPath, flags.disableHook ?? [], flags.enableHook ?? []),
    ldconfigPath: flags.ldconfigPath,
    configSearchPaths: flags.configSearchPath ?? [],
    ...features,
  };
  const ids = flags.deviceId ?? ["all"];
  const all = flags.allDevice && !ids.includes("none");
  const mode = flags.mode === "auto" ? foundMode(root) : flags.mode;
  const gated = GATED_MODES.find((name) => name === mode);
  if (gated !== undefined) return generateGated(gated, common);
  switch (mode) {
    case "imex":
      return withAll(generateImex(ids, common), all);
    case "management":
      return generateManagement(common);
    case "wsl":
      return generateWsl(common, flags.librarySearchPath?.[0]);
    case "csv":
      return withAll(generateCsv({ ...common, ...csvOptions(flags, root), ids }), all);
    default: {
      using nvml = new Nvml(Driver.findNvml(root) ?? NVML_NAME);
      return generate(nvml, { ...common, names, ids, all });
    }
  }
}

function foundMode(root: string): string {
  return isWsl(root) ? "wsl" : isTegra(root) ? "csv" : "nvml";
}

function csvOptions(flags: GenerateFlags, root: string) {
  const found = Driver.findNvml(root);
  using nvml = found === undefined ? undefined : new Nvml(found);
  return {
    files: flags["csv.file"] ?? BASE_FILES.map((name) => `${CSV_DIR}/${name}`),
    ignore: flags["csv.ignorePattern"] ?? [],
    names: namesOfOne(flags.deviceNameStrategy ?? ["index"]),
    cudaVersion: nvml?.cudaVersion(),
    compatRoot: flags["csv.compatContainerRoot"],
  };
}

/** The one GPU of a Tegra system; NVML, which would know its UUID, is not there. */
function namesOfOne(strategies: readonly string[]): string[] {
  const names = strategies.flatMap((name) => ({ index: ["0"], "type-index": ["gpu0"] })[name] ?? []);
  return names.length > 0 ? names : ["0"];
}

function withAll(spec: CdiSpec, all: boolean): CdiSpec {
  if (!all || spec.devices.some(({ name }) => name === "all")) return spec;
  return tidy({ ...spec, devices: [...spec.devices, merged("all", spec.devices)] });
}

function featuresOf(flags: readonly string[]): { readonly withoutSockets: boolean; readonly withGroups: boolean } {
  const known = ["disable-ipc-discoverer", "no-additional-gids-for-device-nodes", ...NO_FEATURE];
  const unknown = flags.find((flag) => !known.includes(flag));
  if (unknown !== undefined)
    throw new Error(`--feature-flag ${unknown}: berth has no such feature (${known.join(", ")})`);
  return {
    withoutSockets: flags.includes("disable-ipc-discoverer"),
    withGroups: !flags.includes("no-additional-gids-for-device-nodes"),
  };
}

function strategyOf(name: string): NameStrategy {
  const found = NAME_STRATEGIES.find((strategy) => strategy === name);
  if (found === undefined) throw new Error(`invalid device name strategy: ${name}`);
  return found;
}
