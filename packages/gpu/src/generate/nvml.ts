/** A CDI specification of the GPUs and MIG devices that NVML knows, with the files of their driver. */
import { type CdiDevice, type CdiSpec, type ContainerEdits, CURRENT_VERSION } from "@berth/cdi";
import type { Handle, Nvml } from "../nvml/library.ts";
import { Driver } from "./driver.ts";
import { graphicsLinks, type HookMaker, libraryFolders, libraryLinks, linkHook } from "./hooks.ts";
import { byPathLinks, drmNodes, migNodes, nodeEdits } from "./nodes.ts";
import { merged, tidy } from "./tidy.ts";

export const NAME_STRATEGIES = ["index", "type-index", "uuid"] as const;
export type NameStrategy = (typeof NAME_STRATEGIES)[number];

export interface GenerateOptions {
  readonly driverRoot: string;
  /** Where device nodes are, if not below the driver's root. */
  readonly devRoot: string;
  readonly kind: string;
  readonly names: readonly NameStrategy[];
  readonly hooks: HookMaker;
  readonly ldconfigPath: string | undefined;
  /** A device `all` of all the others. */
  readonly all: boolean;
}

const CONTROL_NODES = ["/dev/nvidia-modeset", "/dev/nvidia-uvm-tools", "/dev/nvidia-uvm", "/dev/nvidiactl"];

/** Throws NvmlError, and Error where the driver's files are missing. */
export function generate(nvml: Nvml, options: GenerateOptions): CdiSpec {
  const devices = nvml.gpus().flatMap((gpu, index) => devicesOf(nvml, gpu, index, options));
  if (devices.length === 0) throw new Error("NVML knows no GPU that could be given to a container");
  const spec = tidy({
    cdiVersion: CURRENT_VERSION,
    kind: options.kind,
    devices,
    containerEdits: commonEdits(new Driver(options.driverRoot, nvml.driverVersion()), options),
  });
  if (!options.all || spec.devices.some(({ name }) => name === "all")) return spec;
  return tidy({ ...spec, devices: [...spec.devices, merged("all", spec.devices)] });
}

/** A GPU, or in its place the MIG devices that it is divided into; each under every name. */
function devicesOf(nvml: Nvml, gpu: Handle, index: number, options: GenerateOptions): CdiDevice[] {
  const minor = nvml.minor(gpu);
  const named = (names: readonly string[], containerEdits: ContainerEdits): CdiDevice[] =>
    names.map((name) => ({ name, containerEdits }));
  if (!nvml.isMigEnabled(gpu)) {
    const names = { index: `${index}`, "type-index": `gpu${index}`, uuid: nvml.uuid(gpu) };
    return named(
      options.names.map((strategy) => names[strategy]),
      gpuEdits(nvml.pciBusId(gpu), minor, options),
    );
  }
  return nvml.migDevices(gpu).flatMap(({ index: part, handle }) => {
    const names = { index: `${index}:${part}`, "type-index": `mig${index}:${part}`, uuid: nvml.uuid(handle) };
    const nodes = migNodes(minor, nvml.gpuInstanceId(handle), nvml.computeInstanceId(handle));
    return named(
      options.names.map((strategy) => names[strategy]),
      nodeEdits(options.devRoot, [`/dev/nvidia${minor}`, ...nodes]),
    );
  });
}

function gpuEdits(busId: string, minor: number, { devRoot, hooks }: GenerateOptions): ContainerEdits {
  const edits = nodeEdits(devRoot, [`/dev/nvidia${minor}`, ...drmNodes(busId)]);
  return { ...edits, hooks: linkHook(hooks, byPathLinks(devRoot, busId, edits.deviceNodes ?? [])) };
}

function commonEdits(driver: Driver, options: GenerateOptions): ContainerEdits {
  const { hooks, ldconfigPath } = options;
  const [libraries, graphics] = [driver.libraries(), driver.graphics()];
  const folders = libraryFolders(libraries).flatMap((folder) => ["--folder", folder]);
  const ldconfig = ldconfigPath === undefined ? [] : ["--ldconfig-path", ldconfigPath];
  return {
    ...nodeEdits(options.devRoot, CONTROL_NODES),
    env: [`NVIDIA_CTK_LIBCUDA_DIR=${driver.libraryDirs.join(":")}`, "NVIDIA_VISIBLE_DEVICES=void"],
    mounts: [...graphics, ...libraries, ...driver.files()],
    hooks: [
      ...linkHook(hooks, graphicsLinks([...libraries.filter(isAllocator), ...graphics], driver.version)),
      ...linkHook(hooks, libraryLinks(libraries)),
      ...hooks("enable-cuda-compat", [`--host-driver-version=${driver.version}`]),
      ...hooks("update-ldcache", [...ldconfig, ...folders]),
      ...hooks("disable-device-node-modification", []),
    ],
  };
}

const isAllocator = ({ containerPath }: { readonly containerPath: string }): boolean =>
  containerPath.includes("/libnvidia-allocator.so.");
