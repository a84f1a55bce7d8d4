/** GPUs and MIG devices as resources of the node, and what a container gets with them. */
import { randomUUID } from "node:crypto";
import { existsSync } from "node:fs";
import { join } from "node:path";
import { ANNOTATION_PREFIX, annotationKey, annotationValue } from "@berth/cdi";
import { takeShares } from "../allocate.ts";
import { sharesOf } from "../devices.ts";
import { type Allocation, AllocationError, type ListedDevice, type Offer, type Preference } from "../offer.ts";
import type { Gpu, Inventory } from "./inventory.ts";
import { mpsAllocation } from "./mps.ts";
import { preferredGpus } from "./prefer.ts";
import type { Flags, NvidiaSettings } from "./settings.ts";

export const CDI_VENDOR = "k8s.device-plugin.nvidia.com";
const DEVICES_DIR = "/var/run/nvidia-container-devices";
/** What all GPUs share; a driver need not have made each. */
const COMMON_PATHS = ["/dev/nvidiactl", "/dev/nvidia-uvm", "/dev/nvidia-uvm-tools", "/dev/nvidia-modeset"];
/** Of a resource's name with its prefix. */
const MAX_NAME = 63;

export interface NvidiaDevice extends ListedDevice {
  readonly gpu: Gpu;
}

export interface NvidiaResource {
  readonly offer: Offer<NvidiaDevice>;
  readonly gpus: readonly Gpu[];
  /** Of each device. */
  readonly replicas: number;
}

/**
 * By the MIG strategy, then sharing. `kinds`: what CDI specifications there are. Throws Error for a node that the strategy cannot
 * serve.
 */
export function resourcesOf(
  found: Inventory,
  settings: NvidiaSettings,
  kinds: readonly string[] = [],
): NvidiaResource[] {
  const { sharing } = settings;
  return [...named(found, settings.flags.migStrategy)].map(([name, gpus]) => {
    if (name.length > MAX_NAME)
      throw new Error(`fully-qualified resource name must be ${MAX_NAME} characters or less: ${name}`);
    const replicas = sharing?.resources.find((shared) => shared.name === name)?.replicas ?? 1;
    const shown = replicas > 1 && sharing?.renameByDefault ? `${name}.shared` : name;
    return { offer: offerOf({ name: shown, replicas, found, settings, kinds }), gpus, replicas };
  });
}

function named({ gpus, divided }: Inventory, strategy: string): Map<string, Gpu[]> {
  const whole = gpus.filter(
    ({ profile, uuid }) => profile === undefined && (strategy === "none" || !divided.has(uuid)),
  );
  const parts = strategy === "none" ? [] : gpus.filter(({ profile }) => profile !== undefined);
  const result = new Map<string, Gpu[]>(whole.length > 0 ? [["nvidia.com/gpu", whole]] : []);
  if (strategy === "single") return uniform(whole, parts, divided);
  for (const gpu of parts) {
    // "+" (media extensions) is not for a resource's name.
    const name = `nvidia.com/mig-${(gpu.profile ?? "").replaceAll("+", ".")}`;
    result.set(name, [...(result.get(name) ?? []), gpu]);
  }
  return result;
}

function uniform(whole: readonly Gpu[], parts: readonly Gpu[], divided: ReadonlySet<string>): Map<string, Gpu[]> {
  const empty = [...divided].find((uuid) => !parts.some(({ parent }) => parent?.uuid === uuid));
  if (empty !== undefined) throw new Error(`invalid MIG configuration: GPU ${empty} has MIG enabled and no MIG device`);
  if (whole.length > 0 && parts.length > 0)
    throw new Error("all devices on the node must be configured with the same migEnabled value");
  const profiles = [...new Set(parts.map(({ profile }) => profile))];
  if (profiles.length > 1)
    throw new Error(`invalid MIG configuration: more than one MIG device type present on node: ${profiles.join(", ")}`);
  const all = [...whole, ...parts];
  return new Map(all.length > 0 ? [["nvidia.com/gpu", all]] : []);
}

/** Every share of a device is as healthy as the device. */
export const listed = ({ gpus, replicas }: NvidiaResource, problems: ReadonlyMap<string, string>): NvidiaDevice[] =>
  gpus.flatMap((gpu) =>
    sharesOf(gpu.uuid, replicas).map((id) => ({
      id,
      gpu,
      problem: problems.get(gpu.uuid),
      numaNodes: gpu.numaNodes,
    })),
  );

interface Resource {
  readonly name: string;
  readonly replicas: number;
  readonly found: Inventory;
  readonly settings: NvidiaSettings;
  readonly kinds: readonly string[];
}

const offerOf = (resource: Resource): Offer<NvidiaDevice> => ({
  name: resource.name,
  socketName: `nvidia-${resource.name.slice(resource.name.indexOf("/") + 1)}.sock`,
  allocate: (devices, ids) => allocate(resource, devices, ids),
  preferred: (devices, request) => preferred(resource, devices, request),
});

function allocate(resource: Resource, devices: readonly NvidiaDevice[], ids: readonly string[]): Allocation {
  const { name, replicas, settings } = resource;
  const known = new Map(devices.map((device) => [device.id, device]));
  const gpus = ids.map((id) => {
    const device = known.get(id);
    if (device === undefined)
      throw new AllocationError(`invalid allocation request for "${name}": invalid request: unknown device: ${id}`);
    if (device.problem !== undefined) throw new AllocationError(`"${name}": device ${id}: ${device.problem}`);
    return device.gpu;
  });
  if (replicas > 1 && settings.sharing?.failRequestsGreaterThanOne && ids.length > 1)
    throw new AllocationError(
      `invalid allocation request for "${name}": invalid request: maximum request size for shared resources is 1; found ${ids.length}`,
    );
  return answerFor([...new Set(gpus)], resource);
}

function answerFor(gpus: readonly Gpu[], { name, replicas, found, settings, kinds }: Resource): Allocation {
  const { flags, imex, sharing } = settings;
  const strategies = flags.deviceListStrategy;
  const names = gpus.map((gpu) => (flags.deviceIDStrategy === "index" ? gpu.index : gpu.uuid));
  const channels = imex.channelIDs.map(String);
  const cdi = strategies.some((strategy) => strategy.startsWith("cdi-")) ? cdiNames(names, channels, kinds) : [];
  const onlyCdi = strategies.every((strategy) => strategy.startsWith("cdi-"));
  const gated = {
    NVIDIA_GDRCOPY: flags.gdrcopyEnabled,
    NVIDIA_GDS: flags.gdsEnabled,
    NVIDIA_MOFED: flags.mofedEnabled,
  };
  const byMounts = strategies.includes("volume-mounts");
  const mps = sharing?.strategy === "mps" && replicas > 1 ? mpsAllocation(name, flags) : { envs: {}, mounts: [] };
  return {
    envs: {
      ...mps.envs,
      ...Object.fromEntries(Object.entries(gated).flatMap(([variable, on]) => (on ? [[variable, "enabled"]] : []))),
      ...(strategies.includes("envvar") && {
        NVIDIA_VISIBLE_DEVICES: names.join(","),
        ...(channels.length > 0 && { NVIDIA_IMEX_CHANNELS: channels.join(",") }),
      }),
      ...(byMounts && { NVIDIA_VISIBLE_DEVICES: DEVICES_DIR }),
    },
    mounts: [...mps.mounts, ...(byMounts ? [...names, ...channels.map((id) => `imex/${id}`)].map(nullMount) : [])],
    devices: flags.passDeviceSpecs && !onlyCdi ? nodesOf(gpus, channels, found, flags) : [],
    annotations: strategies.includes("cdi-annotations") ? cdiAnnotation(cdi, flags.cdiAnnotationPrefix) : {},
    cdiDevices: strategies.includes("cdi-cri") ? cdi.map((device) => ({ name: device })) : [],
  };
}

const nullMount = (name: string) => ({
  hostPath: "/dev/null",
  containerPath: join(DEVICES_DIR, name),
  readOnly: false,
});

function cdiNames(names: readonly string[], channels: readonly string[], kinds: readonly string[]): string[] {
  const others = ["gdrcopy", "gds", "mofed"].map((mode) => `${CDI_VENDOR}/${mode}`);
  return [
    ...names.map((name) => `${CDI_VENDOR}/gpu=${name}`),
    ...channels.map((id) => `${CDI_VENDOR}/imex-channel=${id}`),
    ...others.filter((kind) => kinds.includes(kind)).map((kind) => `${kind}=all`),
  ];
}

/** The key is one use's own: two containers of a pod must not share it. */
function cdiAnnotation(names: readonly string[], prefix: string): Record<string, string> {
  const key = annotationKey("nvidia-device-plugin", randomUUID());
  return { [`${prefix}${key.slice(ANNOTATION_PREFIX.length)}`]: annotationValue(names) };
}

function nodesOf(gpus: readonly Gpu[], channels: readonly string[], { platform }: Inventory, flags: Flags) {
  const root = flags.nvidiaDevRoot ?? flags.nvidiaDriverRoot;
  // The host's root is elsewhere for this process, if it is in a container.
  const isThere = (path: string): boolean =>
    [flags.containerDriverRoot, root, "/"].some((place) => existsSync(join(place, path)));
  const common = platform === "nvml" ? COMMON_PATHS.filter(isThere) : [];
  const imex = channels.map((id) => `/dev/nvidia-caps-imex-channels/channel${id}`);
  return [...new Set([...common, ...gpus.flatMap(({ paths }) => paths), ...imex])].map((path) => ({
    containerPath: path,
    hostPath: join(root, path),
    permissions: "rw",
  }));
}

function preferred(resource: Resource, devices: readonly NvidiaDevice[], request: Preference): string[] {
  const { name, replicas, found, settings } = resource;
  const known = new Map(devices.map((device) => [device.id, device]));
  const { available, must } = request;
  const unknown = [...available, ...must].find((id) => !known.has(id));
  if (unknown !== undefined) throw new AllocationError(`"${name}": unknown device: ${unknown}`);
  const isWhole = devices.every(({ gpu }) => gpu.profile === undefined);
  if (replicas === 1 && isWhole && found.platform === "nvml")
    return preferredGpus(request, (one, other) => found.scores.get(`${one} ${other}`) ?? 0);
  const policy = found.platform === "nvml" ? settings.flags.sharedDevicesAllocationPolicy : "distributed";
  return takeShares(policy, [...known.keys()], request);
}

/** Devices that an event of a GPU is about: it, or its parts, or that one part. */
export function concerned(
  gpus: readonly Gpu[],
  event: { readonly uuid: string; readonly instances: { readonly gpu: number; readonly compute: number } | undefined },
): string[] {
  const { uuid, instances } = event;
  return gpus
    .filter((gpu) => {
      if (gpu.parent === undefined) return gpu.uuid === uuid;
      const isPart = gpu.parent.uuid === uuid;
      if (instances === undefined) return isPart;
      return isPart && gpu.parent.gpuInstance === instances.gpu && gpu.parent.computeInstance === instances.compute;
    })
    .map((gpu) => gpu.uuid);
}
