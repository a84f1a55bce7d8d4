/** The labels of a node with NVIDIA GPUs, by what is known of it (package lm of gpu-feature-discovery 0.20). */
import type { MigStrategy, Sharing } from "../plugin/nvidia/settings.ts";
import type { GpuFacts, MigFacts, NodeFacts } from "./facts.ts";
import { type Labels, ResourceLabels, sanitised } from "./resource.ts";

export interface LabelSettings {
  readonly migStrategy: MigStrategy;
  readonly sharing: Sharing | undefined;
}

const GPU = "nvidia.com/gpu";
/** Classes of PCI: what may show pictures, and what only computes. */
const VGA_CONTROLLER = 0x0300_00;
const CONTROLLER_3D = 0x0302_00;

/** `machine`: its model. `warn`: of what is not as it should be. Throws Error for a driver's version that is none, and for MPS with MIG. */
export function labelsOf(
  facts: NodeFacts,
  machine: string,
  settings: LabelSettings,
  warn: (text: string) => void,
): Labels {
  const { gpus } = facts;
  if (gpus.length === 0) return {};
  return {
    "nvidia.com/gpu.machine": sanitised(machine),
    ...versions(facts),
    "nvidia.com/mig.capable": String(gpus.some(({ isMigCapable }) => isMigCapable)),
    "nvidia.com/mps.capable": String(isMpsCapable(gpus, settings)),
    ...gpuLabels(gpus, settings, warn),
    ...migLabels(gpus, settings, warn),
    "nvidia.com/gpu.mode": modeOf(gpus),
    ...fabricLabels(gpus, warn),
  };
}

function versions({ driver, cuda }: NodeFacts): Labels {
  const parts = driver.split(".");
  if (parts.length < 2 || parts.length > 3)
    throw new Error(`error getting driver version: version "${driver}" does not match format "X.Y[.Z]"`);
  const [major = "", minor = "", revision = ""] = parts;
  const [cudaMajor = "", cudaMinor = ""] = cuda.split(".");
  return {
    // Their old names, beside the new.
    "nvidia.com/cuda.driver.major": major,
    "nvidia.com/cuda.driver.minor": minor,
    "nvidia.com/cuda.driver.rev": revision,
    "nvidia.com/cuda.runtime.major": cudaMajor,
    "nvidia.com/cuda.runtime.minor": cudaMinor,
    "nvidia.com/cuda.driver-version.major": major,
    "nvidia.com/cuda.driver-version.minor": minor,
    "nvidia.com/cuda.driver-version.revision": revision,
    "nvidia.com/cuda.driver-version.full": driver,
    "nvidia.com/cuda.runtime-version.major": cudaMajor,
    "nvidia.com/cuda.runtime-version.minor": cudaMinor,
    "nvidia.com/cuda.runtime-version.full": cuda,
  };
}

function isMpsCapable(gpus: readonly GpuFacts[], { sharing }: LabelSettings): boolean {
  if (sharing?.strategy !== "mps") return false;
  if (gpus.some(({ parts }) => parts !== undefined))
    throw new Error("failed to check MPS-capable: MPS sharing is not supported for mig devices");
  return true;
}

/** Of GPUs, divided or not; of several models those of the last are told. */
function gpuLabels(gpus: readonly GpuFacts[], { sharing }: LabelSettings, warn: (text: string) => void): Labels {
  const models = Map.groupBy(gpus, ({ name }) => name);
  if (models.size > 1) warn(`multiple device types detected: ${[...models.keys()].join(", ")}`);
  const labels = (divided: boolean): Labels => {
    const own = [...models].flatMap(([, same]) => {
      const last = same.findLast(({ parts }) => (parts !== undefined) === divided);
      return last ? [new ResourceLabels(GPU, divided ? "off" : sharing).ofGpu(last, same.length)] : [];
    });
    return Object.assign({}, ...own) as Labels;
  };
  return { ...labels(true), ...labels(false) };
}

function migLabels(gpus: readonly GpuFacts[], settings: LabelSettings, warn: (text: string) => void): Labels {
  const { migStrategy, sharing } = settings;
  if (migStrategy === "none") return {};
  const strategy = { "nvidia.com/mig.strategy": migStrategy };
  const divided = gpus.filter(({ parts }) => parts !== undefined);
  const kinds = [
    ...Map.groupBy(
      divided.flatMap(({ name, parts = [] }) => parts.map((part) => ({ name, part }))),
      ({ part }) => part.profile,
    ).values(),
  ];
  const [first] = divided;
  if (migStrategy === "single") {
    if (first === undefined) return strategy;
    const reason = whyNotSingle(gpus, divided, kinds.length);
    if (reason !== undefined) {
      warn(`invalid configuration detected for mig-strategy=single: ${reason}`);
      return { ...strategy, ...new ResourceLabels(GPU, "off").invalid(first.name) };
    }
  }
  const all = kinds.map((same) => {
    const [{ name, part } = { name: "", part: undefined as MigFacts | undefined }] = same;
    if (part === undefined) return {};
    const resource = migStrategy === "single" ? GPU : `nvidia.com/mig-${part.profile}`;
    return new ResourceLabels(resource, sharing).ofMig(name, part.profile, part.attributes, same.length);
  });
  return Object.assign({}, strategy, ...all) as Labels;
}

function whyNotSingle(gpus: readonly GpuFacts[], divided: readonly GpuFacts[], profiles: number): string | undefined {
  if (divided.some(({ parts }) => parts?.length === 0)) return "at least one MIG device is enabled but empty";
  if (divided.length < gpus.length) return "devices with MIG enabled and disable detected";
  return profiles === 1 ? undefined : "more than one MIG device type present on node";
}

function modeOf(gpus: readonly GpuFacts[]): string {
  const classes = new Set(gpus.map(({ pciClass }) => pciClass));
  const [only] = classes;
  if (classes.size !== 1) return "unknown";
  if (only === VGA_CONTROLLER) return "graphics";
  return only === CONTROLLER_3D ? "compute" : "unknown";
}

function fabricLabels(gpus: readonly GpuFacts[], warn: (text: string) => void): Labels {
  const fabrics = gpus.flatMap(({ fabric }) => (fabric ? [fabric] : []));
  const clusters = new Set(fabrics.map(({ cluster }) => cluster));
  const cliques = new Set(fabrics.map(({ clique }) => clique));
  if (clusters.size > 1) warn(`cluster UUIDs are non-unique: ${[...clusters].join(", ")}`);
  else if (cliques.size > 1) warn(`clique IDs are non-unique: ${[...cliques].join(", ")}`);
  const [cluster] = clusters;
  const [clique] = cliques;
  const isOne = clusters.size === 1 && cliques.size === 1;
  return isOne ? { "nvidia.com/gpu.clique": `${cluster}.${clique}` } : {};
}
