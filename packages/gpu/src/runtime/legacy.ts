/** Mode legacy: a prestart hook puts the GPUs into the container. */
import type { oci } from "@berth/spec";
import { basename } from "node:path";
import { applyEdits, hostDevice, type ContainerEdits } from "@berth/cdi/injection";
import { Driver } from "../generate/driver.ts";
import { graphicsEdits } from "../generate/common.ts";
import { openNvml } from "../generate/machine.ts";
import { hookMaker, linkHook } from "../generate/hooks.ts";
import { byPathLinks, drmNodes, nodeEdits } from "../generate/nodes.ts";
import type { Nvml } from "../nvml/library.ts";
import type { ToolkitConfig } from "../toolkit/config.ts";
import type { Request } from "../toolkit/request.ts";
import { gatedSpecs, withSpecs } from "./beside.ts";
import type { Maker } from "./make.ts";

const HOOK_NAMES = ["nvidia-container-runtime-hook", "nvidia-container-toolkit"];

/** What a container asks for, of which machine. */
export interface Wanted {
  readonly request: Request;
  readonly devices: readonly string[];
  readonly config: ToolkitConfig;
  readonly maker: Maker;
}

/** The hook is there once, whoever put it there. */
export async function legacyModified(spec: oci.Spec, wanted: Wanted): Promise<oci.Spec> {
  const { request, devices, maker } = wanted;
  const edited =
    devices.length === 0 ? spec : await withBeside(await withSpecs(spec, gatedSpecs(request, maker)), wanted);
  if (edited.hooks?.prestart?.some(isNvidiaHook)) return edited;
  const path = maker.prestartHook;
  const hook: oci.Hook = { path, args: [basename(path), "prestart"] };
  return { ...edited, hooks: { ...edited.hooks, prestart: [...(edited.hooks?.prestart ?? []), hook] } };
}

/** Without the hook of mode legacy, which Docker's --gpus and older files bring. */
export function withoutHook(spec: oci.Spec): oci.Spec {
  const prestart = spec.hooks?.prestart?.filter((hook) => !isNvidiaHook(hook));
  if (prestart === undefined || prestart.length === spec.hooks?.prestart?.length) return spec;
  return { ...spec, hooks: { ...spec.hooks, prestart } };
}

const isNvidiaHook = ({ path }: oci.Hook): boolean => HOOK_NAMES.includes(basename(path));

/** What the hook does not bring: files and nodes of graphics, and newer CUDA libraries of the image by a hook. */
async function withBeside(spec: oci.Spec, { request, devices, config, maker }: Wanted): Promise<oci.Spec> {
  const capabilities = request.capabilities();
  const graphics = ["all", "graphics", "display"].some((name) => capabilities.has(name));
  const compat =
    config.get("nvidia-container-runtime.modes.legacy.cuda-compat-mode") === "hook" &&
    !config.get("features.disable-cuda-compat-lib-hook");
  if (!graphics && !compat) return spec;
  using nvml = openNvml(maker.driverRoot);
  const driver = new Driver(maker.driverRoot, nvml.driverVersion());
  const edits = [
    ...(compat ? [compatEdits(driver, maker)] : []),
    ...(graphics ? graphicsOf(nvml, driver, devices, maker) : []),
  ];
  return await applyEdits(
    spec,
    edits.map((one) => ({ edits: one })),
    hostDevice,
  );
}

function compatEdits({ version }: Driver, maker: Maker): ContainerEdits {
  const hooks = hookMaker(maker.hookPath, maker.disabledHooks);
  return {
    hooks: [...hooks("enable-cuda-compat", [`--host-driver-version=${version}`]), ...hooks("update-ldcache", [])],
  };
}

function graphicsOf(nvml: Nvml, driver: Driver, devices: readonly string[], maker: Maker): ContainerEdits[] {
  const { driverRoot } = maker;
  const hooks = hookMaker(maker.hookPath, maker.disabledHooks);
  const kind = "runtime.nvidia.com/gpu";
  const gpus = nvml
    .gpus()
    .filter((gpu, index) => ["all", `${index}`, nvml.uuid(gpu)].some((name) => devices.includes(name)))
    .map((gpu) => {
      const busId = nvml.pciBusId(gpu);
      const edits = nodeEdits(driverRoot, drmNodes(busId));
      return { ...edits, hooks: linkHook(hooks, byPathLinks(driverRoot, busId, edits.deviceNodes ?? [])) };
    });
  return [...gpus, graphicsEdits(driver, { driverRoot, devRoot: driverRoot, kind, hooks, ldconfigPath: undefined })];
}
