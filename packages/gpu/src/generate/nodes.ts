/** Device nodes as a specification has them, with what the host's nodes are. */
import { existsSync, lstatSync, readdirSync, readFileSync, readlinkSync } from "node:fs";
import { basename, dirname, join } from "node:path";
import { type ContainerEdits, type DeviceNode, deviceNumber } from "@berth/cdi/injection";

/** Of storage and switches, which have specifications of their own. */
const OTHER_PARTS = ["nvidia-fs", "nvidia-nvswitch", "nvidia-nvlink"];
const MIG_MINORS = "/proc/driver/nvidia-caps/mig-minors";

/** Whether a node of the driver is none of the GPUs'. */
export const isOfOtherPart = (path: string): boolean => OTHER_PARTS.some((prefix) => basename(path).startsWith(prefix));

const OTHERS_READ_AND_WRITE = 0o006;

/** Those of `paths` that are character devices below `devRoot`. A group that alone may use a node is one that the container needs. */
export function nodeEdits(devRoot: string, paths: readonly string[]): ContainerEdits {
  const nodes = paths.flatMap((path) => nodeAt(devRoot, path));
  const groups = nodes.flatMap(({ gid, fileMode = 0 }) =>
    gid !== undefined && (fileMode & OTHERS_READ_AND_WRITE) !== OTHERS_READ_AND_WRITE ? [gid] : [],
  );
  return { deviceNodes: nodes, additionalGids: groups };
}

function nodeAt(devRoot: string, path: string): DeviceNode[] {
  const hostPath = `${devRoot}${path}`;
  const stats = lstatSync(hostPath, { throwIfNoEntry: false });
  if (!stats?.isCharacterDevice()) return [];
  const { major, minor } = deviceNumber(stats.rdev);
  const fileMode = stats.mode & 0o7777;
  return [
    {
      path,
      ...(hostPath !== path && { hostPath }),
      ...(major !== 0 && { major }),
      ...(minor !== 0 && { minor }),
      ...(fileMode !== 0 && { fileMode }),
      permissions: "rwm",
      ...(stats.gid !== 0 && { gid: stats.gid }),
    },
  ];
}

/** /dev/dri nodes of a GPU, by its address on the PCI bus. */
export function drmNodes(busId: string): string[] {
  try {
    return readdirSync(`/sys/bus/pci/devices/${busId}/drm`)
      .filter((name) => /^(?:card|renderD)\d+$/.test(name))
      .sort()
      .map((name) => `/dev/dri/${name}`);
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === "ENOENT") return [];
    throw error;
  }
}

/** Links by bus address to those of `nodes` that the host has such links to, as "target::link". */
export function byPathLinks(devRoot: string, busId: string, nodes: readonly DeviceNode[]): string[] {
  const known = new Set(nodes.map(({ path, hostPath }) => hostPath ?? path));
  return ["card", "render"].flatMap((kind) => {
    const link = `/dev/dri/by-path/pci-${busId}-${kind}`;
    const hostLink = `${devRoot}${link}`;
    if (!lstatSync(hostLink, { throwIfNoEntry: false })?.isSymbolicLink()) return [];
    const target = readlinkSync(hostLink);
    return known.has(join(dirname(hostLink), target)) || known.has(target) ? [`${target}::${link}`] : [];
  });
}

/** The capability nodes of a MIG device: its GPU instance's, and its compute instance's. Throws Error when the driver has none. */
export function migNodes(gpu: number, gpuInstance: number, computeInstance: number): string[] {
  const minors = migMinors();
  const gi = `gpu${gpu}/gi${gpuInstance}`;
  return [`${gi}/access`, `${gi}/ci${computeInstance}/access`].map((capability) => {
    const minor = minors?.get(capability);
    if (minor === undefined) throw new Error(`${MIG_MINORS} has no ${capability}`);
    return `/dev/nvidia-caps/nvidia-cap${minor}`;
  });
}

/** Minor numbers by capability, as "gpu0/gi1/ci0/access"; undefined: no GPU of the machine can be divided. */
export function migMinors(): ReadonlyMap<string, number> | undefined {
  if (!existsSync(MIG_MINORS)) return undefined;
  const lines = [...readFileSync(MIG_MINORS, "utf8").matchAll(/^(\S+) (\d+)$/gm)];
  return new Map(lines.map(([, capability, minor]) => [capability ?? "", Number(minor)]));
}
