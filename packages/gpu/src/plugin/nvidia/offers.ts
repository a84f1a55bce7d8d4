/** GPUs and MIG devices as resources of the node, and what a container gets with them. */
import { randomUUID } from "node:crypto";
import { existsSync } from "node:fs";
import { join } from "node:path";
import { ANNOTATION_PREFIX, annotationKey, annotationValue } from "@berth/cdi";
import { nextShare } from "../allocate.ts";
import { sharesOf } from "../devices.ts";
import { type Allocation, AllocationError, type ListedDevice, type Offer, type Preference } from "../offer.ts";
import type { Gpu, Inventory } from "./inventory.ts";
import { preferredGpus } from "./prefer.ts";
import type { NvidiaSettings } from "./settings.ts";

export const CDI_VENDOR = "k8s.device-plugin.nvidia.com";
const DEVICES_DIR = "/var/run/nvidia-container-devices";
/** What all GPUs share; a driver need not have made each. */
const COMMON_PATHS = ["/dev/nvidiactl", "/dev/nvidia-uvm", "/dev/nvidia-uvm-tools", "/dev/nvidia-modeset"];
/** Kubernetes's limit of a qualified name's part behind the "/". */
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

/** By the MIG strategy, then sharing. Throws Error for a node that the strategy cannot serve. */
export function resourcesOf(found: Inventory, settings: NvidiaSettings): NvidiaResource[] {
  return [...named(found, settings.flags.migStrategy)].map(([name, gpus]) => {
    const { timeSlicing } = settings;
    const replicas = timeSlicing?.resources.find((shared) => shared.name === name)?.replicas ?? 1;
    const shown = replicas > 1 && timeSlicing?.renameByDefault ? `${name}.shared` : name;
    if (shown.slice(shown.indexOf("/") + 1).length > MAX_NAME)
      throw new Error(`resource name ${shown} is longer than ${MAX_NAME} characters`);
    return { offer: offerOf(shown, replicas, found, settings), gpus, replicas };
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

function offerOf(name: string, replicas: number, found: Inventory, settings: NvidiaSettings): Offer<NvidiaDevice> {
  return {
    name,
    socketName: `nvidia-${name.slice(name.indexOf("/") + 1)}.sock`,
    allocate: (devices, ids) => allocate(name, replicas, devices, ids, settings),
    preferred: (devices, request) => preferred(name, replicas, devices, request, found, settings),
  };
}

function allocate(
  name: string,
  replicas: number,
  devices: readonly NvidiaDevice[],
  ids: readonly string[],
  settings: NvidiaSettings,
): Allocation {
  const known = new Map(devices.map((device) => [device.id, device]));
  const gpus = ids.map((id) => {
    const device = known.get(id);
    if (device === undefined)
      throw new AllocationError(`invalid allocation request for "${name}": unknown device: ${id}`);
    if (device.problem !== undefined) throw new AllocationError(`"${name}": device ${id}: ${device.problem}`);
    return device.gpu;
  });
  if (replicas > 1 && settings.timeSlicing?.failRequestsGreaterThanOne && ids.length > 1)
    throw new AllocationError(
      `invalid allocation request for "${name}": maximum request size for shared resources is 1; found ${ids.length}`,
    );
  return answerFor([...new Set(gpus)], settings);
}

function answerFor(gpus: readonly Gpu[], { flags, imex }: NvidiaSettings): Allocation {
  const strategies = flags.deviceListStrategy;
  const names = gpus.map((gpu) => (flags.deviceIDStrategy === "index" ? gpu.index : gpu.uuid));
  const channels = imex.channelIDs.map(String);
  const cdi = strategies.some((strategy) => strategy.startsWith("cdi-")) ? cdiNames(names, channels, flags) : [];
  const onlyCdi = strategies.every((strategy) => strategy.startsWith("cdi-"));
  const gated = {
    NVIDIA_GDRCOPY: flags.gdrcopyEnabled,
    NVIDIA_GDS: flags.gdsEnabled,
    NVIDIA_MOFED: flags.mofedEnabled,
  };
  const byMounts = strategies.includes("volume-mounts");
  return {
    envs: {
      ...Object.fromEntries(Object.entries(gated).flatMap(([name, on]) => (on ? [[name, "enabled"]] : []))),
      ...(strategies.includes("envvar") && {
        NVIDIA_VISIBLE_DEVICES: names.join(","),
        ...(channels.length > 0 && { NVIDIA_IMEX_CHANNELS: channels.join(",") }),
      }),
      ...(byMounts && { NVIDIA_VISIBLE_DEVICES: DEVICES_DIR }),
    },
    mounts: byMounts ? [...names, ...channels.map((id) => `imex/${id}`)].map(nullMount) : [],
    devices:
      flags.passDeviceSpecs && !onlyCdi ? nodesOf(gpus, channels, flags.nvidiaDevRoot ?? flags.nvidiaDriverRoot) : [],
    annotations: strategies.includes("cdi-annotations") ? cdiAnnotation(cdi, flags.cdiAnnotationPrefix) : {},
    cdiDevices: strategies.includes("cdi-cri") ? cdi.map((name) => ({ name })) : [],
  };
}

const nullMount = (name: string) => ({
  hostPath: "/dev/null",
  containerPath: join(DEVICES_DIR, name),
  readOnly: false,
});

function cdiNames(names: readonly string[], channels: readonly string[], flags: NvidiaSettings["flags"]): string[] {
  const gated = { gdrcopy: flags.gdrcopyEnabled, gds: flags.gdsEnabled, mofed: flags.mofedEnabled };
  return [
    ...names.map((name) => `${CDI_VENDOR}/gpu=${name}`),
    ...channels.map((id) => `${CDI_VENDOR}/imex-channel=${id}`),
    ...Object.entries(gated).flatMap(([mode, on]) => (on ? [`${CDI_VENDOR}/${mode}=all`] : [])),
  ];
}

/** The key is one use's own: two containers of a pod must not share it. */
function cdiAnnotation(names: readonly string[], prefix: string): Record<string, string> {
  const key = annotationKey("nvidia-device-plugin", randomUUID());
  return { [`${prefix}${key.slice(ANNOTATION_PREFIX.length)}`]: annotationValue(names) };
}

function nodesOf(gpus: readonly Gpu[], channels: readonly string[], root: string) {
  const common = COMMON_PATHS.filter((path) => existsSync(join(root, path)));
  const imex = channels.map((id) => `/dev/nvidia-caps-imex-channels/channel${id}`);
  return [...new Set([...common, ...gpus.flatMap(({ paths }) => paths), ...imex])].map((path) => ({
    containerPath: path,
    hostPath: join(root, path),
    permissions: "rw",
  }));
}

function preferred(
  name: string,
  replicas: number,
  devices: readonly NvidiaDevice[],
  request: Preference,
  { scores }: Inventory,
  { flags }: NvidiaSettings,
): string[] {
  const known = new Map(devices.map((device) => [device.id, device]));
  const { available, must, size } = request;
  const unknown = [...available, ...must].find((id) => !known.has(id));
  if (unknown !== undefined) throw new AllocationError(`"${name}": unknown device: ${unknown}`);
  const isWhole = [...available, ...must].every((id) => known.get(id)?.gpu.profile === undefined);
  if (replicas === 1 && isWhole) return preferredGpus(request, (one, other) => scores.get(`${one} ${other}`) ?? 0);
  const left = available.filter((id) => !must.includes(id));
  if (size - must.length > left.length) throw new AllocationError("not enough available devices to satisfy allocation");
  const chosen = [...must];
  while (chosen.length < size) {
    const next = nextShare(flags.sharedDevicesAllocationPolicy, left, chosen);
    left.splice(left.indexOf(next), 1);
    chosen.push(next);
  }
  return chosen;
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
