/** The CDI specifications of what containers are told of by name, as the plugin writes them. */
import { existsSync } from "node:fs";
import { mkdir } from "node:fs/promises";
import { type CdiSpec, specName, writeSpec } from "@berth/cdi";
import type { SpecOptions } from "../../generate/common.ts";
import { featuresOf } from "../../generate/features.ts";
import { generateGated, generateImex } from "../../generate/gated.ts";
import { hookMaker } from "../../generate/hooks.ts";
import { generate } from "../../generate/nvml.ts";
import { withRoot } from "../../generate/root.ts";
import { withoutGroups } from "../../generate/tidy.ts";
import { generateWsl } from "../../generate/wsl.ts";
import { Nvml } from "../../nvml/library.ts";
import { driverRoot } from "./discover.ts";
import type { Inventory } from "./inventory.ts";
import { CDI_VENDOR } from "./offers.ts";
import type { Flags, NvidiaSettings } from "./settings.ts";

type SpecificationRoots = Pick<SpecOptions, "driverRoot" | "devRoot">;

/** What there is beside GPUs, if it is wanted. */
const GATED = ["gdrcopy", "gds", "mofed"] as const;

/** Throws NvmlError, and Error where the driver's files are missing. */
export function specificationsOf(settings: NvidiaSettings, { platform }: Inventory, library: string): CdiSpec[] {
  const { flags, imex } = settings;
  const roots = rootsOf(flags);
  const features = featuresOf(flags.cdiFeatureFlags);
  const gpu = {
    ...roots,
    kind: `${CDI_VENDOR}/gpu`,
    hooks: hookMaker(flags.nvidiaCTKPath, flags.cdiDisableHooks),
    ldconfigPath: undefined,
    withoutSockets: features.withoutSockets,
    withExplicitLibraries: features.withExplicitLibraries,
  };
  const ofGpus = (): CdiSpec => {
    if (platform === "wsl") return generateWsl(gpu);
    using nvml = new Nvml(library);
    const { withCoherence } = features;
    return generate(nvml, { ...gpu, names: [flags.deviceIDStrategy], ids: ["all"], all: false, withCoherence });
  };
  const gated = { gdrcopy: flags.gdrcopyEnabled, gds: flags.gdsEnabled, mofed: flags.mofedEnabled } as const;
  const specs = [
    ofGpus(),
    ...(imex.channelIDs.length > 0
      ? [generateImex(imex.channelIDs.map(String), { ...roots, kind: `${CDI_VENDOR}/imex-channel` })]
      : []),
    ...GATED.filter((mode) => gated[mode])
      .map((mode) => generateGated(mode, { ...roots, kind: `${CDI_VENDOR}/${mode}` }))
      // Of what this machine does not have, there is nothing to specify.
      .filter(({ devices }) => devices.some(({ containerEdits }) => Object.keys(containerEdits).length > 0)),
  ];
  return specs
    .map((spec) => (features.withGroups ? spec : withoutGroups(spec)))
    .map((spec) => forHost(spec, roots, flags));
}

export async function writeSpecifications(directory: string, specs: readonly CdiSpec[]): Promise<void> {
  if (specs.length > 0) await mkdir(directory, { recursive: true, mode: 0o755 });
  for (const spec of specs) await writeSpec(directory, `${specName(spec.kind)}.json`, spec);
}

/** As this process sees them. A mounted driver may come without its device nodes; then this container's own are looked at. */
function rootsOf(flags: Flags): SpecificationRoots {
  const root = driverRoot(flags);
  const isMounted = root !== flags.nvidiaDriverRoot.replace(/\/+$/, "");
  const devRoot = isMounted ? (existsSync(`${root}/dev`) ? root : "") : (flags.nvidiaDevRoot ?? root);
  return { driverRoot: root, devRoot: devRoot.replace(/\/+$/, "") };
}

/** What this process sees at one place is for the runtime at another. */
function forHost(spec: CdiSpec, { driverRoot: root, devRoot }: SpecificationRoots, flags: Flags): CdiSpec {
  const moved = withRoot(spec, "host", root, flags.nvidiaDriverRoot);
  if (devRoot === root) return moved;
  const target = (flags.nvidiaDevRoot ?? flags.nvidiaDriverRoot).replace(/\/+$/, "");
  return withRoot(moved, "host", `${devRoot}/dev`, `${target}/dev`);
}
