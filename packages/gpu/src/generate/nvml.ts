/** A CDI specification of the GPUs and MIG devices that NVML knows, with the files of their driver. */
import { type CdiDevice, type CdiSpec, type ContainerEdits, CURRENT_VERSION } from "@berth/cdi/injection";
import type { Handle, Nvml } from "../nvml/library.ts";
import { Driver } from "./driver.ts";
import { driverEdits, graphicsEdits, type SpecOptions } from "./common.ts";
import { linkHook } from "./hooks.ts";
import { byPathLinks, drmNodes, migNodes, nodeEdits } from "./nodes.ts";
import { tidy, withAll } from "./tidy.ts";

export const NAME_STRATEGIES = ["index", "type-index", "uuid"] as const;
export type NameStrategy = (typeof NAME_STRATEGIES)[number];

export interface GenerateOptions extends SpecOptions {
  readonly names: readonly NameStrategy[];
  /** Indexes ("0", "1:0" of a MIG device) and UUIDs; or "all"; or "none", a device with nothing in it. */
  readonly ids: readonly string[];
  /** A device `all` of all the others. */
  readonly all: boolean;
  /** Whole GPUs are annotated with whether they reach the machine's memory coherently. */
  readonly withCoherence?: boolean;
}

export const COHERENT = "gpu.nvidia.com/coherent";

export const CONTROL_NODES = ["/dev/nvidia-modeset", "/dev/nvidia-uvm-tools", "/dev/nvidia-uvm", "/dev/nvidiactl"];

/** A device for all the names it has; each of its MIG devices is another. */
export interface Found {
  readonly index: string;
  readonly typeIndex: string;
  readonly uuid: string;
  /** It is divided: its parts are given in its place, unless it was asked for. */
  readonly divided: boolean;
  readonly edits: () => ContainerEdits;
  readonly annotations?: Readonly<Record<string, string>>;
}

/** Throws NvmlError, and Error where the driver's files are missing, or an id is no device. */
export function generate(nvml: Nvml, options: GenerateOptions): CdiSpec {
  const isNone = options.ids.includes("none");
  const devices = isNone
    ? [NONE]
    : chosen(foundBy(nvml, options), options.ids).flatMap((one) => named(one, options.names));
  if (devices.length === 0) throw new Error("NVML knows no GPU that could be given to a container");
  const driver = new Driver(options.driverRoot, nvml.driverVersion(), options.librarySearchPaths);
  const [own, graphics] = [driverEdits(driver, options), graphicsEdits(driver, options)];
  const spec = tidy({
    cdiVersion: CURRENT_VERSION,
    kind: options.kind,
    devices,
    containerEdits: {
      ...nodeEdits(options.devRoot, CONTROL_NODES),
      env: own.env ?? [],
      mounts: [...(graphics.mounts ?? []), ...(own.mounts ?? [])],
      hooks: [...(graphics.hooks ?? []), ...(own.hooks ?? []), ...options.hooks("update-application-profile", [])],
    },
  });
  return options.all && !isNone ? withAll(spec) : spec;
}

/** A device must have some edit. */
const NONE: CdiDevice = { name: "none", containerEdits: { env: ["NVCT_EMPTY_DEVICE="] } };

function foundBy(nvml: Nvml, options: GenerateOptions): Found[] {
  return nvml.gpus().flatMap((gpu, index) => {
    const minor = nvml.minor(gpu);
    const divided = nvml.isMigEnabled(gpu);
    const parts = divided ? nvml.migDevices(gpu) : [];
    return [
      {
        index: `${index}`,
        typeIndex: `gpu${index}`,
        uuid: nvml.uuid(gpu),
        divided,
        edits: () => gpuEdits(nvml.pciBusId(gpu), minor, options),
        ...coherence(nvml, gpu, options),
      },
      ...parts.map(({ index: part, handle }) => ({
        index: `${index}:${part}`,
        typeIndex: `mig${index}:${part}`,
        uuid: nvml.uuid(handle),
        divided: false,
        edits: () => migEdits(nvml, handle, minor, options),
      })),
    ];
  });
}

function coherence(nvml: Nvml, gpu: Handle, { withCoherence }: GenerateOptions): Pick<Found, "annotations"> {
  return withCoherence ? { annotations: { [COHERENT]: `${nvml.isCoherent(gpu)}` } } : {};
}

/** Throws Error for an id of none. */
export function chosen(found: readonly Found[], ids: readonly string[]): Found[] {
  if (ids.includes("all")) return found.filter(({ divided }) => !divided);
  const wanted = ids.map((id) => {
    const one = found.find(({ index, uuid }) => index === id || uuid === id);
    if (one === undefined) throw new Error(`--device-id ${id}: NVML knows no GPU or MIG device of this index or UUID`);
    return one;
  });
  return [...new Set(wanted)];
}

export function named(
  { index, typeIndex, uuid, edits, annotations }: Found,
  strategies: readonly NameStrategy[],
): CdiDevice[] {
  const names: Readonly<Record<NameStrategy, string>> = { index, "type-index": typeIndex, uuid };
  const containerEdits = edits();
  return strategies.map((strategy) => ({ name: names[strategy], ...(annotations && { annotations }), containerEdits }));
}

export function gpuEdits(busId: string, minor: number, { devRoot, hooks }: GenerateOptions): ContainerEdits {
  const edits = nodeEdits(devRoot, [`/dev/nvidia${minor}`, ...drmNodes(busId)]);
  return { ...edits, hooks: linkHook(hooks, byPathLinks(devRoot, busId, edits.deviceNodes ?? [])) };
}

function migEdits(nvml: Nvml, mig: Handle, minor: number, { devRoot }: GenerateOptions): ContainerEdits {
  const nodes = migNodes(minor, nvml.gpuInstanceId(mig), nvml.computeInstanceId(mig));
  return nodeEdits(devRoot, [`/dev/nvidia${minor}`, ...nodes]);
}
