/** Specifications made for one container: by the mode that its request asks for, or that the machine is of. */
import { basename } from "node:path";
import type { CdiSpec } from "@berth/cdi/injection";
import { BASE_FILES, CSV_DIR, csvFiles, type CsvSources } from "../generate/csv.ts";
import { type Features, featuresOf } from "../generate/features.ts";
import { GATED_MODES, type GatedMode, generateGated, generateImex } from "../generate/gated.ts";
import { hookMaker } from "../generate/hooks.ts";
import { foundNvml, generateMachine } from "../generate/machine.ts";
import { platformOf } from "../generate/platform.ts";
import { withoutGroups } from "../generate/tidy.ts";
import type { ToolkitConfig } from "../toolkit/config.ts";
import { hookProgram, prestartHook } from "./programs.ts";
import { assertRequirements } from "./requirements.ts";

const VENDOR = "runtime.nvidia.com";
/** It has a place of its own in the configuration too. */
const NO_GROUPS = "no-additional-gids-for-device-nodes";

export interface CsvPlaces {
  readonly dir: string;
  readonly compatRoot: string | undefined;
  readonly files: "base" | "all";
}

/** Where the driver is, and how its files come into a container. */
export interface Maker {
  /** "" is the machine's own root. */
  readonly driverRoot: string;
  readonly hookPath: string;
  /** Of mode legacy. */
  readonly prestartHook: string;
  readonly disabledHooks: readonly string[];
  readonly features: Features;
  readonly csv?: CsvPlaces;
  readonly warn?: (message: string) => void;
}

export function makerOf(config: ToolkitConfig, path: string | undefined): Maker {
  const flags = config.get("nvidia-container-runtime.modes.jit-cdi.nvcdi-feature-flags");
  return {
    driverRoot: config.get("nvidia-container-cli.root").replace(/\/+$/, ""),
    hookPath: hookProgram(config.get("nvidia-ctk.path"), path),
    prestartHook: prestartHook(config.get("nvidia-container-runtime-hook.path"), path),
    disabledHooks: config.get("nvidia-container-runtime.modes.jit-cdi.nvcdi-disable-hooks"),
    features: featuresOf(config.get("features.no-additional-gids-for-device-nodes") ? [...flags, NO_GROUPS] : flags),
  };
}

export type SpecMode = "auto" | "csv" | "imex" | GatedMode;

/** Throws Error, NvmlError. */
export function makeSpec(mode: SpecMode, ids: readonly string[], maker: Maker): CdiSpec {
  const spec = specOf(mode, ids, maker);
  return maker.features.withGroups ? spec : withoutGroups(spec);
}

function specOf(mode: SpecMode, ids: readonly string[], maker: Maker): CdiSpec {
  const roots = { driverRoot: maker.driverRoot, devRoot: maker.driverRoot };
  const gated = GATED_MODES.find((name) => name === mode);
  if (gated !== undefined) return generateGated(gated, { ...roots, kind: `${VENDOR}/${gated}` });
  if (mode === "imex") return generateImex(ids, { ...roots, kind: `${VENDOR}/imex-channel` });
  const common = {
    ...roots,
    kind: `${VENDOR}/gpu`,
    hooks: hookMaker(maker.hookPath, maker.disabledHooks),
    ldconfigPath: undefined,
    withoutSockets: maker.features.withoutSockets,
    withExplicitLibraries: maker.features.withExplicitLibraries,
    names: ["index" as const],
    ids,
    all: false,
    ...(maker.warn && { warn: maker.warn }),
    csv: {
      ...csvSources(maker.csv ?? { dir: CSV_DIR, compatRoot: undefined, files: "base" }),
      oneDevice: maker.features.oneDevice,
    },
  };
  return generateMachine(mode === "csv" ? "csv" : platformOf(maker.driverRoot), common);
}

function csvSources({ dir, compatRoot, files }: CsvPlaces): CsvSources {
  const all = csvFiles(dir);
  const base = all.filter((file) => BASE_FILES.includes(basename(file)));
  return { files: files === "all" ? all : base, ignore: [], compatRoot };
}

/** What an image requires of the driver is asked of NVML; where that is not there, nothing is known to be met. */
export function checkRequirements(requirements: readonly string[], driverRoot: string): void {
  if (requirements.length === 0) return;
  using nvml = foundNvml(driverRoot);
  if (nvml === undefined) return assertRequirements(requirements, {});
  const [gpu] = nvml.gpus();
  assertRequirements(requirements, {
    cuda: nvml.cudaVersion(),
    driver: nvml.driverVersion(),
    ...(gpu !== undefined && { arch: nvml.computeCapability(gpu) }),
  });
}
