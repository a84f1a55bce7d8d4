/** What the kubelet asks about devices, answered without looking at anything: the same devices give the same answers. */
import { randomUUID } from "node:crypto";
import { annotationKey, annotationValue } from "@berth/cdi";
import type { AllocationPolicy, ResourceConfig } from "./config.ts";
import { deviceOfId, type PluginDevice } from "./devices.ts";
import { type Allocation, AllocationError, type Offer, type Preference } from "./offer.ts";

/** Devices of a CDI kind. */
export const offerOf = (config: ResourceConfig): Offer<PluginDevice> => ({
  name: config.name,
  socketName: `berth-${config.name.replaceAll("/", "_")}.sock`,
  allocate: (devices, ids) => allocate(config, devices, ids),
  preferred: (devices, request) => preferred(config, devices, request),
});

/** Throws AllocationError for an id that is not, or not any more, a device. */
function allocate(config: ResourceConfig, devices: readonly PluginDevice[], ids: readonly string[]): Allocation {
  const known = new Map(devices.map((device) => [device.id, device]));
  const wanted = ids.map((id) => {
    const device = known.get(id);
    if (device === undefined) throw new AllocationError(`${config.name}: there is no device ${JSON.stringify(id)}`);
    if (device.problem !== undefined)
      throw new AllocationError(`${config.name}: device ${JSON.stringify(id)} cannot be given: ${device.problem}`);
    return device;
  });
  if (config.replicas > 1 && config.failRequestsGreaterThanOne && ids.length > 1)
    throw new AllocationError(`${config.name}: a container may ask for one share of a device, not ${ids.length}`);
  const names = [...new Set(wanted.map(({ qualifiedName }) => qualifiedName))];
  const strategies = config.deviceListStrategy;
  return {
    // The key is one use's own: two containers of a pod must not share it.
    annotations: strategies.includes("cdi-annotations")
      ? { [annotationKey("berth-device-plugin", randomUUID())]: annotationValue(names) }
      : {},
    cdiDevices: strategies.includes("cdi-cri") ? names.map((name) => ({ name })) : [],
  };
}

/**
 * `size` of `available`, among them all of `must`. Devices of one NUMA node are kept together where they are enough; of shared
 * ones the policy says which device's share is next. Throws AllocationError when there are not so many.
 */
function preferred(config: ResourceConfig, devices: readonly PluginDevice[], request: Preference): string[] {
  const { available, must, size } = request;
  const order = new Map(devices.map((device, index) => [device.id, { device, index }]));
  const unknown = [...available, ...must].find((id) => !order.has(id));
  if (unknown !== undefined) throw new AllocationError(`${config.name}: there is no device ${JSON.stringify(unknown)}`);
  if (size < must.length || size > new Set([...available, ...must]).size)
    throw new AllocationError(`${config.name}: ${size} of ${available.length} available devices cannot be given`);
  if (config.replicas > 1) return takeShares(config.allocationPolicy, [...order.keys()], request);
  const left = available
    .filter((id) => !must.includes(id))
    .sort((a, b) => (order.get(a)?.index ?? 0) - (order.get(b)?.index ?? 0));
  const chosen = [...must];
  while (chosen.length < size) {
    const next = nextNear(left, chosen, size, (id) => order.get(id)?.device);
    left.splice(left.indexOf(next), 1);
    chosen.push(next);
  }
  return chosen;
}

/**
 * `size` of `available`, among them all of `must`: next is each time the device of which the fewest shares are given away (distributed), or
 * the most (packed). `all`: the shares that there are. Throws AllocationError when there are not so many.
 */
export function takeShares(
  policy: AllocationPolicy,
  all: readonly string[],
  { available, must, size }: Preference,
): string[] {
  const free = new Set(available.filter((id) => !must.includes(id)));
  const left = all.filter((id) => free.has(id));
  if (size - must.length > left.length) throw new AllocationError("not enough available devices to satisfy allocation");
  const count = (ids: readonly string[], of: string): number =>
    ids.filter((id) => deviceOfId(id) === deviceOfId(of)).length;
  const sign = policy === "distributed" ? 1 : -1;
  const chosen: string[] = [];
  while (chosen.length < size - must.length) {
    const given = (id: string): number => count(all, id) - count(left, id);
    const [next = ""] = left.toSorted((a, b) => sign * (given(a) - given(b)) || count(chosen, a) - count(chosen, b));
    left.splice(left.indexOf(next), 1);
    chosen.push(next);
  }
  return [...must, ...chosen];
}

function nextNear(
  left: readonly string[],
  chosen: readonly string[],
  size: number,
  deviceOf: (id: string) => PluginDevice | undefined,
): string {
  const nodeOf = (id: string): number => deviceOf(id)?.numaNodes[0] ?? -1;
  const started = chosen[0] === undefined ? undefined : nodeOf(chosen[0]);
  const needed = size - chosen.length;
  const isEnough = (id: string): boolean => left.filter((other) => nodeOf(other) === nodeOf(id)).length >= needed;
  return left.find((id) => (started === undefined ? isEnough(id) : nodeOf(id) === started)) ?? left[0] ?? "";
}
