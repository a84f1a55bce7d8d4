/** NVIDIA's GPUs and MIG devices of this machine, by NVML: what the plugin has to know of each. */
import { existsSync, readFileSync } from "node:fs";
import { migNodes } from "../../generate/nodes.ts";
import { GPU_IS_LOST, type Handle, type Nvml, NvmlError, TOPOLOGY } from "../../nvml/library.ts";
import { profileName } from "../../nvml/mig-profile.ts";

export interface Gpu {
  readonly uuid: string;
  /** "0"; "0:1" of a MIG device. */
  readonly index: string;
  /** In /dev, without what all GPUs share. */
  readonly paths: readonly string[];
  readonly numaNodes: readonly number[];
  /** "1g.5gb"; undefined: a whole GPU. */
  readonly profile: string | undefined;
  /** Bytes; 0: not known. */
  readonly memory: number;
  /** Compute capability: "8.0". */
  readonly compute: string;
  /** Of a MIG device. */
  readonly parent:
    | { readonly uuid: string; readonly gpuInstance: number; readonly computeInstance: number }
    | undefined;
}

export interface Inventory {
  /** "wsl" and "tegra" have one device, whatever GPUs there are. */
  readonly platform: "nvml" | "wsl" | "tegra";
  /** Those whose MIG mode is on are there by their MIG devices too. */
  readonly gpus: readonly Gpu[];
  readonly divided: ReadonlySet<string>;
  /** Between two GPUs, by "uuid uuid": the better they reach each other, the higher. */
  readonly scores: ReadonlyMap<string, number>;
  /** What NVML says where a GPU was. */
  readonly lost?: string | undefined;
}

/** Throws NvmlError. */
export function inventory(nvml: Nvml): Inventory {
  const { handles: all, lost } = reachable(nvml);
  const handles = all.map(({ handle, index }) => ({ handle, index, uuid: nvml.uuid(handle) }));
  const divided = new Set(handles.filter(({ handle }) => nvml.isMigEnabled(handle)).map(({ uuid }) => uuid));
  const gpus = handles.flatMap(({ handle, index, uuid }) => [
    wholeGpu(nvml, handle, index, uuid),
    ...(divided.has(uuid) ? parts(nvml, handle, index, uuid) : []),
  ]);
  return { platform: "nvml", gpus, divided, scores: scoresOf(nvml, handles), lost };
}

/** GPUs but those that have fallen off the bus. Throws NvmlError. */
function reachable(nvml: Nvml): {
  readonly handles: readonly { readonly handle: Handle; readonly index: number }[];
  readonly lost: string | undefined;
} {
  let lost: string | undefined;
  const handles = Array.from({ length: nvml.gpuCount() }, (_, index) => index).flatMap((index) => {
    try {
      return [{ handle: nvml.gpu(index), index }];
    } catch (error) {
      if (!(error instanceof NvmlError) || error.code !== GPU_IS_LOST) throw error;
      lost = error.message;
      return [];
    }
  });
  return { handles, lost };
}

function wholeGpu(nvml: Nvml, handle: Handle, index: number, uuid: string): Gpu {
  const numaNodes = numaNodesOf(nvml.pciBusId(handle));
  const paths = [`/dev/nvidia${nvml.minor(handle)}`];
  const [memory, compute] = [nvml.totalMemory(handle), nvml.computeCapability(handle)];
  return { uuid, index: `${index}`, paths, numaNodes, profile: undefined, memory, compute, parent: undefined };
}

function parts(nvml: Nvml, handle: Handle, gpu: number, parent: string): Gpu[] {
  const minor = nvml.minor(handle);
  const compute = nvml.computeCapability(handle);
  const numaNodes = numaNodesOf(nvml.pciBusId(handle));
  return nvml.migDevices(handle).map(({ index, handle: mig }) => {
    const [gpuInstance, computeInstance] = [nvml.gpuInstanceId(mig), nvml.computeInstanceId(mig)];
    return {
      uuid: nvml.uuid(mig),
      index: `${gpu}:${index}`,
      paths: [`/dev/nvidia${minor}`, ...migNodes(minor, gpuInstance, computeInstance)],
      numaNodes,
      profile: profileName(nvml, handle, mig),
      memory: nvml.totalMemory(mig),
      compute,
      parent: { uuid: parent, gpuInstance, computeInstance },
    };
  });
}

function numaNodesOf(busId: string): number[] {
  const file = `/sys/bus/pci/devices/${busId}/numa_node`;
  const node = existsSync(file) ? Number.parseInt(readFileSync(file, "utf8"), 10) : -1;
  return node >= 0 ? [node] : [];
}

/** Points for the way over PCI Express; each NVLink between them is worth a hundred. */
const POINTS = new Map<number, number>([
  [TOPOLOGY.board, 60],
  [TOPOLOGY.switch, 50],
  [TOPOLOGY.switches, 40],
  [TOPOLOGY.hostBridge, 30],
  [TOPOLOGY.node, 20],
  [TOPOLOGY.system, 10],
]);
const LINK_POINTS = 100;

interface Known {
  readonly handle: Handle;
  readonly uuid: string;
}

function scoresOf(nvml: Nvml, gpus: readonly Known[]): Map<string, number> {
  const links = new Map(gpus.map(({ handle, uuid }) => [uuid, nvml.linkedTo(handle)]));
  const busIds = new Map(gpus.map(({ handle, uuid }) => [uuid, nvml.pciBusId(handle)]));
  const scores = new Map<string, number>();
  for (const one of gpus) {
    for (const other of gpus) {
      if (one.uuid === other.uuid) continue;
      const level = nvml.topology(one.handle, other.handle);
      const count = (links.get(one.uuid) ?? []).filter((busId) => busId === busIds.get(other.uuid)).length;
      const points = level === undefined ? 0 : (POINTS.get(level) ?? 0);
      scores.set(`${one.uuid} ${other.uuid}`, points + count * LINK_POINTS);
    }
  }
  return scores;
}
