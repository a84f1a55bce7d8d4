/** A specification without repetitions, in the reference's order: files by depth and name, devices by name. */
import { type CdiDevice, type CdiSpec, type ContainerEdits, minimumVersion } from "@berth/cdi/injection";

export function tidy(spec: CdiSpec): CdiSpec {
  const containerEdits = tidyEdits(spec.containerEdits ?? {});
  const devices = spec.devices
    .map((device) => ({ ...device, containerEdits: without(tidyEdits(device.containerEdits), containerEdits) }))
    .sort((a, b) => compare(a.name, b.name));
  const result = { ...spec, devices, containerEdits };
  return { ...result, cdiVersion: minimumVersion(result) };
}

/** One device of all of them together. */
function merged(name: string, devices: readonly CdiDevice[]): CdiDevice {
  const edits = devices.map((device) => device.containerEdits);
  return {
    name,
    containerEdits: {
      env: edits.flatMap(({ env = [] }) => env),
      deviceNodes: edits.flatMap(({ deviceNodes = [] }) => deviceNodes),
      hooks: edits.flatMap(({ hooks = [] }) => hooks),
      mounts: edits.flatMap(({ mounts = [] }) => mounts),
      additionalGids: edits.flatMap(({ additionalGids = [] }) => additionalGids),
    },
  };
}

/** With a device "all" of all the others, if it has none yet. */
export function withAll(spec: CdiSpec): CdiSpec {
  if (spec.devices.some(({ name }) => name === "all")) return spec;
  return tidy({ ...spec, devices: [...spec.devices, merged("all", spec.devices)] });
}

/** A group that alone may use a node is then none of the container's. */
export function withoutGroups(spec: CdiSpec): CdiSpec {
  const edits = (all: ContainerEdits): ContainerEdits =>
    Object.fromEntries(Object.entries(all).filter(([name]) => name !== "additionalGids"));
  const devices = spec.devices.map((device) => ({ ...device, containerEdits: edits(device.containerEdits) }));
  const result = { ...spec, devices, containerEdits: edits(spec.containerEdits ?? {}) };
  return { ...result, cdiVersion: minimumVersion(result) };
}

function tidyEdits({ env, deviceNodes, hooks, mounts, additionalGids }: ContainerEdits): ContainerEdits {
  return compact({
    env: unique(env),
    deviceNodes: byDepth(unique(deviceNodes), ({ path }) => path),
    hooks: unique(hooks),
    mounts: byDepth(unique(mounts), ({ containerPath }) => containerPath),
    additionalGids: unique(additionalGids).sort((a, b) => a - b),
  });
}

/** What is made for every device need not be made for this one. */
function without(edits: ContainerEdits, common: ContainerEdits): ContainerEdits {
  const rest = <T>(own: readonly T[] = [], all: readonly T[] = []): T[] => {
    const known = new Set(all.map((item) => JSON.stringify(item)));
    return own.filter((item) => !known.has(JSON.stringify(item)));
  };
  return compact({
    env: rest(edits.env, common.env),
    deviceNodes: rest(edits.deviceNodes, common.deviceNodes),
    hooks: rest(edits.hooks, common.hooks),
    mounts: rest(edits.mounts, common.mounts),
    additionalGids: rest(edits.additionalGids, common.additionalGids),
  });
}

function compact(edits: ContainerEdits): ContainerEdits {
  return Object.fromEntries(Object.entries(edits).filter(([, list]) => (list as readonly unknown[]).length > 0));
}

function unique<T>(items: readonly T[] = []): T[] {
  return [...new Map(items.map((item) => [JSON.stringify(item), item])).values()];
}

function byDepth<T>(items: readonly T[], pathOf: (item: T) => string): T[] {
  const depth = (item: T): number => pathOf(item).split("/").length;
  return items.toSorted((a, b) => depth(a) - depth(b) || compare(pathOf(a), pathOf(b)));
}

const compare = (a: string, b: string): number => (a < b ? -1 : a > b ? 1 : 0);
