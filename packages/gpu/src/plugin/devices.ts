/** The devices of a resource, as the kubelet counts them: each CDI device, or each share of one, with its health. */
import { lstat, readFile, stat } from "node:fs/promises";
import { dirname } from "node:path";
import { type ContainerEdits, deviceNumber, type LoadedDevice, type Registry } from "@berth/cdi";
import type { ResourceConfig } from "./config.ts";
import type { ListedDevice } from "./offer.ts";

/** Its id is the CDI device's name, and for a share "::" and its number. */
export interface PluginDevice extends ListedDevice {
  readonly qualifiedName: string;
}

const SHARE = "::";

/** Of a device that so many containers may share; 1: itself. */
export const sharesOf = (id: string, replicas: number): string[] =>
  replicas === 1 ? [id] : Array.from({ length: replicas }, (_, index) => `${id}${SHARE}${index}`);

export const deviceOfId = (id: string): string => id.split(SHARE, 1)[0] ?? "";

/** In the order of their names, numbers by value. */
export async function devicesOf(config: ResourceConfig, registry: Registry): Promise<PluginDevice[]> {
  const patterns = config.devices.map(compile);
  const found = registry
    .devices()
    .flatMap((name) => registry.device(name) ?? [])
    .filter(({ from, device }) => from.spec.kind === config.kind && patterns.some((one) => one.test(device.name)))
    .sort((a, b) => a.device.name.localeCompare(b.device.name, "en", { numeric: true }));
  const all = await Promise.all(found.map((device) => examined(device, config.replicas)));
  return all.flat();
}

/** Directories whose changes may change the health of one of them. */
export function directoriesOf(devices: readonly PluginDevice[], registry: Registry): string[] {
  const loaded = devices.flatMap(({ qualifiedName }) => registry.device(qualifiedName) ?? []);
  return [...new Set(loaded.flatMap((device) => pathsOf(device).map(({ path }) => dirname(path))))].sort();
}

async function examined(loaded: LoadedDevice, replicas: number): Promise<PluginDevice[]> {
  const { qualifiedName, device } = loaded;
  const [problem, numaNodes] = await Promise.all([problemOf(loaded), numaNodesOf(device.containerEdits)]);
  // Every share of a device is as healthy as the device.
  return sharesOf(device.name, replicas).map((id) => ({ id, qualifiedName, problem, numaNodes }));
}

interface NeededPath {
  readonly path: string;
  readonly what: string;
}

/** What an injection would miss: nodes that do not say what they are, and the sources of mounts. */
function pathsOf({ device, from }: LoadedDevice): NeededPath[] {
  return [device.containerEdits, from.spec.containerEdits ?? {}].flatMap(({ deviceNodes = [], mounts = [] }) => [
    ...deviceNodes
      .filter(({ type, major }) => !type || (!major && type !== "p"))
      .map(({ path, hostPath }) => ({ path: hostPath || path, what: "device node" })),
    ...mounts
      .filter(({ hostPath }) => hostPath.startsWith("/"))
      .map(({ hostPath }) => ({ path: hostPath, what: "mount source" })),
  ]);
}

async function problemOf(device: LoadedDevice): Promise<string | undefined> {
  for (const { path, what } of pathsOf(device)) {
    try {
      await (what === "device node" ? lstat(path) : stat(path));
    } catch (error) {
      return `${what} ${path}: ${(error as NodeJS.ErrnoException).code ?? String(error)}`;
    }
  }
  return undefined;
}

/** Of the device nodes' hardware, for the kubelet's topology manager; what sysfs does not know has none. */
async function numaNodesOf({ deviceNodes = [] }: ContainerEdits): Promise<number[]> {
  const nodes = await Promise.all(deviceNodes.map(({ path, hostPath }) => numaNodeOf(hostPath || path)));
  return [...new Set(nodes.filter((node) => node >= 0))].sort((a, b) => a - b);
}

async function numaNodeOf(path: string): Promise<number> {
  try {
    const { rdev, isBlock } = await lstat(path).then((stats) => ({ rdev: stats.rdev, isBlock: stats.isBlockDevice() }));
    const { major, minor } = deviceNumber(rdev);
    const file = `/sys/dev/${isBlock ? "block" : "char"}/${major}:${minor}/device/numa_node`;
    return Number.parseInt(await readFile(file, "utf8"), 10);
  } catch {
    return -1;
  }
}

function compile(pattern: string): RegExp {
  const source = pattern
    .replace(/[\\^$.+()[\]{}|]/g, String.raw`\$&`)
    .replaceAll("*", ".*")
    .replaceAll("?", ".");
  return new RegExp(`^${source}$`);
}
