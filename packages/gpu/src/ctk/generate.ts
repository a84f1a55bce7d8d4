/** `cdi generate`: from its flags to specifications. */
import type { CdiSpec } from "@berth/cdi";
import { BASE_FILES, CSV_DIR, type CsvSources } from "../generate/csv.ts";
import { type Features, FEATURES, featuresOf } from "../generate/features.ts";
import { GATED_MODES, generateGated, generateImex } from "../generate/gated.ts";
import { hookMaker } from "../generate/hooks.ts";
import { generateMachine } from "../generate/machine.ts";
import { generateManagement } from "../generate/management.ts";
import { COHERENT, NAME_STRATEGIES, type NameStrategy } from "../generate/nvml.ts";
import { platformOf } from "../generate/platform.ts";
import { tidy, withAll, withoutGroups } from "../generate/tidy.ts";

export const MODES = ["auto", "csv", ...GATED_MODES, "imex", "management", "nvml", "wsl"].sort();
const PLATFORMS = ["csv", "nvml", "wsl"] as const;
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

/** A specification, and what its file's name and class have more than those that were asked for. */
export interface Generated {
  readonly spec: CdiSpec;
  readonly infix: string;
}

/** Throws Error naming the flag, or what is missing of the driver. The first is of all devices. */
export function generateSpecs(flags: GenerateFlags, warn?: (message: string) => void): Generated[] {
  const { withGroups, ...features } = knownFeatures(flags.featureFlag ?? []);
  const made = specOf(flags, features, warn);
  const spec = withGroups ? made : withoutGroups(made);
  return [
    { spec: withoutCoherence(spec), infix: "" },
    ...["true", "false"].flatMap((value) => ofCoherence(spec, value, flags)),
  ];
}

function specOf(
  flags: GenerateFlags,
  features: Omit<Features, "withGroups">,
  warn?: (message: string) => void,
): CdiSpec {
  const mode = flags.mode.toLowerCase();
  if (!MODES.includes(mode)) throw new Error(`invalid discovery mode: ${flags.mode} (one of ${MODES.join(", ")})`);
  if (flags.enableHook?.includes("all")) throw new Error("enabling all hooks is not supported");
  const root = flags.driverRoot.replace(/\/+$/, "");
  const ids = flags.deviceId ?? ["all"];
  const options = {
    driverRoot: root,
    devRoot: (flags.devRoot ?? root).replace(/\/+$/, ""),
    kind: `${flags.vendor}/${flags.class}`,
    hooks: hookMaker(flags.nvidiaCdiHookPath, flags.disableHook ?? [], flags.enableHook ?? []),
    ldconfigPath: flags.ldconfigPath,
    configSearchPaths: flags.configSearchPath ?? [],
    librarySearchPaths: flags.librarySearchPath ?? [],
    names: (flags.deviceNameStrategy ?? ["index", "uuid"]).map(strategyOf),
    ids,
    all: flags.allDevice && !ids.includes("none"),
    csv: csvSources(flags),
    ...(warn && { warn }),
    ...features,
  };
  const gated = GATED_MODES.find((name) => name === mode);
  if (gated !== undefined) return generateGated(gated, options);
  switch (mode) {
    case "imex": {
      const spec = generateImex(ids, options);
      return options.all ? withAll(spec) : spec;
    }
    case "management":
      return generateManagement(options);
    default:
      return generateMachine(PLATFORMS.find((name) => name === mode) ?? platformOf(root), {
        ...options,
        csv: { ...options.csv, oneDevice: features.oneDevice },
      });
  }
}

function csvSources(flags: GenerateFlags): CsvSources {
  return {
    files: flags["csv.file"] ?? BASE_FILES.map((name) => `${CSV_DIR}/${name}`),
    ignore: flags["csv.ignorePattern"] ?? [],
    compatRoot: flags["csv.compatContainerRoot"],
  };
}

/** Devices that are, or are not, coherent, where that was asked about. */
function ofCoherence(spec: CdiSpec, value: string, flags: GenerateFlags): Generated[] {
  const devices = spec.devices.filter(({ annotations }) => annotations?.[COHERENT] === value);
  if (devices.length === 0) return [];
  const infix = value === "true" ? ".coherent" : ".noncoherent";
  const part = withoutCoherence({ ...spec, kind: `${spec.kind}${infix}`, devices });
  return [{ spec: flags.allDevice ? withAll(part) : part, infix }];
}

/** It was for telling them apart only. */
function withoutCoherence(spec: CdiSpec): CdiSpec {
  return tidy({ ...spec, devices: spec.devices.map(({ name, containerEdits }) => ({ name, containerEdits })) });
}

function knownFeatures(flags: readonly string[]): Features {
  const unknown = flags.find((flag) => !FEATURES.includes(flag));
  if (unknown !== undefined)
    throw new Error(`--feature-flag ${unknown}: berth has no such feature (${FEATURES.join(", ")})`);
  return featuresOf(flags);
}

function strategyOf(name: string): NameStrategy {
  const found = NAME_STRATEGIES.find((strategy) => strategy === name);
  if (found === undefined) throw new Error(`invalid device name strategy: ${name}`);
  return found;
}
