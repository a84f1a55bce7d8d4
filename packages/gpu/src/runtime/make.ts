/** Specifications made for one container: by the mode that its request asks for, or that the machine is of. */
import type { CdiSpec } from "@berth/cdi";
import { BASE_FILES, csvFiles, generateCsv } from "../generate/csv.ts";
import { Driver } from "../generate/driver.ts";
import { GATED_MODES, type GatedMode, generateGated, generateImex } from "../generate/gated.ts";
import { hookMaker } from "../generate/hooks.ts";
import { generate } from "../generate/nvml.ts";
import { withoutGroups } from "../generate/tidy.ts";
import { generateWsl, isWsl } from "../generate/wsl.ts";
import { Nvml } from "../nvml/library.ts";
import { NVML_NAME } from "../nvml/name.ts";
import type { ToolkitConfig } from "../toolkit/config.ts";
import { isTegra } from "./mode.ts";
import { hookProgram, prestartHook } from "./programs.ts";
import { assertRequirements } from "./requirements.ts";

const VENDOR = "runtime.nvidia.com";

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
  readonly withoutSockets: boolean;
  /** A group that alone may use a node is made one of the container's. */
  readonly withGroups: boolean;
  readonly csv?: CsvPlaces;
}

export function makerOf(config: ToolkitConfig, path: string | undefined): Maker {
  const flags = config.get("nvidia-container-runtime.modes.jit-cdi.nvcdi-feature-flags");
  return {
    driverRoot: config.get("nvidia-container-cli.root").replace(/\/+$/, ""),
    hookPath: hookProgram(config.get("nvidia-ctk.path"), path),
    prestartHook: prestartHook(config.get("nvidia-container-runtime-hook.path"), path),
    disabledHooks: config.get("nvidia-container-runtime.modes.jit-cdi.nvcdi-disable-hooks"),
    withoutSockets: flags.includes("disable-ipc-discoverer"),
    withGroups:
      !config.get("features.no-additional-gids-for-device-nodes") &&
      !flags.includes("no-additional-gids-for-device-nodes"),
  };
}

export type SpecMode = "auto" | "csv" | "imex" | GatedMode;

/** Throws Error, NvmlError. */
export function makeSpec(mode: SpecMode, ids: readonly string[], maker: Maker): CdiSpec {
  const spec = specOf(mode, ids, maker);
  return maker.withGroups ? spec : withoutGroups(spec);
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
    withoutSockets: maker.withoutSockets,
  };
  if (mode === "csv" || isTegra(maker.driverRoot)) return generateCsv({ ...common, ...csvOptions(maker), ids });
  if (isWsl(maker.driverRoot)) return generateWsl(common);
  using nvml = new Nvml(Driver.findNvml(maker.driverRoot) ?? NVML_NAME);
  return generate(nvml, { ...common, names: ["index"], ids, all: false });
}

function csvOptions({ csv, driverRoot }: Maker) {
  const all = csvFiles(csv?.dir ?? "");
  const base = new Set(BASE_FILES);
  const files = csv?.files === "all" ? all : all.filter((file) => base.has(file.slice(file.lastIndexOf("/") + 1)));
  const found = Driver.findNvml(driverRoot);
  using nvml = found === undefined ? undefined : new Nvml(found);
  return { files, ignore: [], names: ["0"], cudaVersion: nvml?.cudaVersion(), compatRoot: csv?.compatRoot };
}

/** What an image requires of the driver is asked of NVML; where that is not there, nothing is known to be met. */
export function checkRequirements(requirements: readonly string[], driverRoot: string): void {
  if (requirements.length === 0) return;
  const found = Driver.findNvml(driverRoot);
  if (found === undefined) return assertRequirements(requirements, {});
  using nvml = new Nvml(found);
  const [gpu] = nvml.gpus();
  assertRequirements(requirements, {
    cuda: nvml.cudaVersion(),
    driver: nvml.driverVersion(),
    ...(gpu !== undefined && { arch: nvml.computeCapability(gpu) }),
  });
}
