/** NVIDIA's GPUs and MIG devices of this machine, by NVML: what the plugin has to know of each. */
import { existsSync, readFileSync } from "node:fs";
import { migNodes } from "../../generate/nodes.ts";
import { type Handle, type MigAttributes, type Nvml, TOPOLOGY } from "../../nvml/library.ts";

export interface Gpu {
  readonly uuid: string;
  /** "0"; "0:1" of a MIG device. */
  readonly index: string;
  /** In /dev, without what all GPUs share. */
  readonly paths: readonly string[];
  readonly numaNodes: readonly number[];
  /** "1g.5gb"; undefined: a whole GPU. */
  readonly profile: string | undefined;
  /** Of a MIG device. */
  readonly parent:
    | { readonly uuid: string; readonly gpuInstance: number; readonly computeInstance: number }
    | undefined;
}

export interface Inventory {
  /** Those whose MIG mode is on are there by their MIG devices too. */
  readonly gpus: readonly Gpu[];
  readonly divided: ReadonlySet<string>;
  /** Between two GPUs, by "uuid uuid": the better they reach each other, the higher. */
  readonly scores: ReadonlyMap<string, number>;
}

/** Throws NvmlError. */
export function inventory(nvml: Nvml): Inventory {
  const handles = nvml.gpus().map((handle, index) => ({ handle, index, uuid: nvml.uuid(handle) }));
  const divided = new Set(handles.filter(({ handle }) => nvml.isMigEnabled(handle)).map(({ uuid }) => uuid));
  const gpus = handles.flatMap(({ handle, index, uuid }) => [
    wholeGpu(nvml, handle, index, uuid),
    ...(divided.has(uuid) ? parts(nvml, handle, index, uuid) : []),
  ]);
  return { gpus, divided, scores: scoresOf(nvml, handles) };
}

function wholeGpu(nvml: Nvml, handle: Handle, index: number, uuid: string): Gpu {
  const numaNodes = numaNodesOf(nvml.pciBusId(handle));
  const paths = [`/dev/nvidia${nvml.minor(handle)}`];
  return { uuid, index: `${index}`, paths, numaNodes, profile: undefined, parent: undefined };
}

function parts(nvml: Nvml, handle: Handle, gpu: number, parent: string): Gpu[] {
  const minor = nvml.minor(handle);
  const total = nvml.totalMemory(handle);
  const numaNodes = numaNodesOf(nvml.pciBusId(handle));
  return nvml.migDevices(handle).map(({ index, handle: mig }) => {
    const [gpuInstance, computeInstance] = [nvml.gpuInstanceId(mig), nvml.computeInstanceId(mig)];
    return {
      uuid: nvml.uuid(mig),
      index: `${gpu}:${index}`,
      paths: [`/dev/nvidia${minor}`, ...migNodes(minor, gpuInstance, computeInstance)],
      numaNodes,
      profile: profileOf(nvml.migAttributes(mig), total),
      parent: { uuid: parent, gpuInstance, computeInstance },
    };
  });
}

const GIB = 2 ** 30;
const EIGHTHS = 8;

/** As nvidia-smi names it: a device has whole eighths of its GPU's memory. */
export function profileOf({ gpuSlices, computeSlices, memoryMib }: MigAttributes, totalBytes: number): string {
  const eighths = Math.ceil(((memoryMib * 2 ** 20) / totalBytes) * EIGHTHS) / EIGHTHS;
  const memory = Math.round(eighths * Math.ceil(totalBytes / GIB));
  const compute = computeSlices === gpuSlices ? "" : `${computeSlices}c.`;
  return `${compute}${gpuSlices}g.${memory}gb`;
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
