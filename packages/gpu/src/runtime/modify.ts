/** A container's configuration with the GPUs that it asks for: what nvidia-container-runtime makes of it at `create`. */
import type { oci } from "@berth/spec";
import { type CdiSpec, isQualifiedName } from "@berth/cdi/injection";
import type { ToolkitConfig } from "../toolkit/config.ts";
import { Request } from "../toolkit/request.ts";
import { checkRequirements, type Maker, makeSpec } from "./make.ts";
import { gatedSpecs, withSpecs } from "./beside.ts";
import { legacyModified, type Wanted, withoutHook } from "./legacy.ts";
import { type RuntimeMode, runtimeMode } from "./mode.ts";

/** The kind of devices that are made for one container alone. */
const AUTOMATIC = "runtime.nvidia.com/gpu";

export interface RuntimeLog {
  debug(message: string): void;
  info(message: string): void;
  warn(message: string): void;
}

/** `spec` is not changed. Throws Error, CdiError and UnresolvedError; nothing is half done. */
export async function modified(
  spec: oci.Spec,
  config: ToolkitConfig,
  machine: Maker,
  log: RuntimeLog,
): Promise<oci.Spec> {
  const warn = (message: string): void => log.warn(message);
  const maker = { ...machine, warn };
  const request = new Request(spec, config, warn);
  const mode = runtimeMode(config.get("nvidia-container-runtime.mode"), request, maker.driverRoot);
  log.info(`mode ${mode}`);
  const devices = [...new Set(request.devices(mode === "cdi"))];
  const wanted = { request, devices, config, maker };
  if (devices.length === 0) {
    log.debug("no device is asked for");
    return mode === "legacy" ? legacyModified(spec, wanted) : withoutHook(spec);
  }
  log.info(`devices ${devices.map((name) => name || "none").join(", ")}`);
  switch (mode) {
    case "legacy":
      return await legacyModified(spec, wanted);
    case "csv":
      return await withSpecs(withoutHook(spec), csvSpecs(wanted));
    default:
      return await withCdi(withoutHook(spec), mode, wanted);
  }
}

async function withCdi(
  spec: oci.Spec,
  mode: RuntimeMode,
  { request, devices, config, maker }: Wanted,
): Promise<oci.Spec> {
  const kind = mode === "jit-cdi" ? AUTOMATIC : config.get("nvidia-container-runtime.modes.cdi.default-kind");
  const names = devices.map((name) => (isQualifiedName(name) ? name : `${kind}=${name || "none"}`));
  const automatic = names.filter((name) => name.startsWith(`${AUTOMATIC}=`));
  if (automatic.length === 0) {
    const { Registry } = await import("@berth/cdi");
    const registry = await Registry.open({ dirs: config.get("nvidia-container-runtime.modes.cdi.spec-dirs") });
    return await registry.inject(spec, names);
  }
  if (automatic.length < names.length)
    throw new Error(`devices of ${AUTOMATIC} cannot be asked for beside other CDI devices: ${names.join(", ")}`);
  const ids = automatic.map((name) => name.slice(AUTOMATIC.length + 1));
  return await withSpecs(spec, [makeSpec("auto", ids, maker), ...besideSpecs(request, maker)]);
}

function csvSpecs({ request, devices, config, maker }: Wanted): CdiSpec[] {
  checkRequirements(request.requirements(), maker.driverRoot);
  const files = request.env.get("NVIDIA_REQUIRE_JETPACK") === "csv-mounts=all" ? "all" : "base";
  const ids = devices.map((name) => name || "none");
  return [...gatedSpecs(request, maker), makeSpec("csv", ids, { ...maker, csv: { ...csvPlaces(config), files } })];
}

function csvPlaces(config: ToolkitConfig): { dir: string; compatRoot: string | undefined } {
  return {
    dir: config.get("nvidia-container-runtime.modes.csv.mount-spec-path"),
    compatRoot: config.get("nvidia-container-runtime.modes.csv.compat-container-root") || undefined,
  };
}

function besideSpecs(request: Request, maker: Maker): CdiSpec[] {
  const channels = [...new Set(request.imexChannels())].filter((channel) => channel !== "");
  return [...gatedSpecs(request, maker), ...(channels.length > 0 ? [makeSpec("imex", channels, maker)] : [])];
}
