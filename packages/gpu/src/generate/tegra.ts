/** The two GPUs of a Tegra system that has a discrete one beside the chip's own: each with nodes of its own. */
import type { CdiDevice, ContainerEdits } from "@berth/cdi/injection";
import type { Handle, Nvml } from "../nvml/library.ts";
import type { CsvOptions } from "./csv.ts";
import { nodeEdits } from "./nodes.ts";
import { chosen, CONTROL_NODES, type Found, gpuEdits, named } from "./nvml.ts";
import { isIntegratedName } from "./platform.ts";

/** On such a system the chip's GPU has minor 0, the discrete one 1 and the chip's display 2. */
const DISCRETE_NODE = "/dev/nvidia1";
const DISPLAY_NODE = "/dev/nvidia2";

/** `nodes`: all that the system's files name. undefined: NVML's GPUs are not such a pair, and the files' nodes stand for one. Throws NvmlError, and Error for an id of neither. */
export function tegraGpus(nvml: Nvml, nodes: readonly string[], options: CsvOptions): CdiDevice[] | undefined {
  const handles = nvml.gpus();
  const kinds = handles.map((gpu) => (isIntegrated(nvml, gpu) ? "integrated" : "discrete"));
  if (kinds.join() !== "integrated,discrete") {
    options.warn?.(
      `NVML's GPUs (${kinds.join(", ")}) are no pair of the chip's and a discrete one: they are given as one device`,
    );
    return undefined;
  }
  const [own, other] = handles as [Handle, Handle];
  return chosen(
    [
      found(0, nvml.uuid(own), () => integratedEdits(nodes, options)),
      found(1, nvml.uuid(other), () => discreteEdits(nvml, other, nodes, options)),
    ],
    options.ids,
  ).flatMap((one) => named(one, options.names));
}

function found(index: number, uuid: string, edits: () => ContainerEdits): Found {
  return { index: `${index}`, typeIndex: `gpu${index}`, uuid, divided: false, edits };
}

function integratedEdits(nodes: readonly string[], { devRoot }: CsvOptions): ContainerEdits {
  return nodeEdits(devRoot, [...nodes.filter((path) => path !== DISCRETE_NODE), DISPLAY_NODE]);
}

function discreteEdits(nvml: Nvml, gpu: Handle, nodes: readonly string[], options: CsvOptions): ContainerEdits {
  const own = gpuEdits(nvml.pciBusId(gpu), nvml.minor(gpu), options);
  const others = nodes.filter((path) => !/^\/dev\/nvidia\d+$/.test(path) && !CONTROL_NODES.includes(path));
  const shared = nodeEdits(options.devRoot, [...CONTROL_NODES, ...others]);
  return {
    ...own,
    deviceNodes: [...(own.deviceNodes ?? []), ...(shared.deviceNodes ?? [])],
    additionalGids: [...(own.additionalGids ?? []), ...(shared.additionalGids ?? [])],
  };
}

/** An Orin's has no address on a bus, a Thor's always the same one. */
function isIntegrated(nvml: Nvml, gpu: Handle): boolean {
  const address = nvml.busAddress(gpu);
  if (address === undefined) return isIntegratedName(nvml.name(gpu));
  return address.domain === 0 && address.bus === 1 && address.device === 0;
}
