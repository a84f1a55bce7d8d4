/** Labels of one resource: what it is, how many of it, how it is shared (resource.go of gpu-feature-discovery). */
import type { MigAttributes } from "../nvml/library.ts";
import type { Sharing } from "../plugin/nvidia/settings.ts";
import type { GpuFacts } from "./facts.ts";

export type Labels = Record<string, string>;

/** GPU families by compute capability. */
function familyOf({ major, minor }: GpuFacts["compute"]): string {
  const families: Readonly<Record<number, string>> = {
    1: "tesla",
    2: "fermi",
    3: "kepler",
    5: "maxwell",
    6: "pascal",
    7: minor < 5 ? "volta" : "turing",
    8: minor < 9 ? "ampere" : "ada-lovelace",
    9: "hopper",
    10: "blackwell",
    12: "blackwell",
    13: "rubin",
  };
  return families[major] ?? "undefined";
}

/** A label's value has no spaces, and none but a few signs. */
export function sanitised(text: string): string {
  return text
    .replace(/[^A-Za-z0-9\-_. ]/g, "")
    .split(" ")
    .filter((word) => word !== "")
    .join("-");
}

export class ResourceLabels {
  readonly #name: string;
  readonly #sharing: Sharing | "off" | undefined;

  /** `name`: "nvidia.com/gpu". `sharing`: "off" for what cannot be had itself, as a GPU that is divided. */
  constructor(name: string, sharing: Sharing | "off" | undefined) {
    this.#name = name;
    this.#sharing = sharing;
  }

  ofGpu(gpu: GpuFacts, count: number): Labels {
    const { compute, memoryMib } = gpu;
    return {
      ...this.#base(count, [gpu.name]),
      ...(memoryMib && this.#prefixed({ memory: memoryMib })),
      ...(compute.major !== 0 &&
        this.#prefixed({
          family: familyOf(compute),
          "compute.major": compute.major,
          "compute.minor": compute.minor,
        })),
    };
  }

  ofMig(model: string, profile: string, attributes: MigAttributes, count: number): Labels {
    return {
      ...this.#base(count, [model, "MIG", profile]),
      ...this.#prefixed({
        memory: attributes.memoryMib,
        multiprocessors: attributes.multiprocessors,
        "slices.gi": attributes.gpuSlices,
        "slices.ci": attributes.computeSlices,
        "engines.copy": attributes.copyEngines,
        "engines.decoder": attributes.decoders,
        "engines.encoder": attributes.encoders,
        "engines.jpeg": attributes.jpegs,
        "engines.ofa": attributes.opticalFlows,
      }),
    };
  }

  /** Of a node that the MIG strategy "single" cannot serve. */
  invalid(model: string): Labels {
    return this.#prefixed({
      product: this.#product([model, "MIG", "INVALID"]),
      count: 0,
      replicas: 0,
      "sharing-strategy": "",
      memory: 0,
    });
  }

  #base(count: number, product: readonly string[]): Labels {
    const shared = this.#shared();
    const replicas = this.#sharing === "off" ? 0 : (shared?.replicas ?? 1);
    return this.#prefixed({
      product: this.#product(product),
      count,
      replicas,
      "sharing-strategy": shared === undefined ? "none" : shared.strategy,
    });
  }

  /** What shares another name is told by that. */
  #product(parts: readonly string[]): string {
    const shared = this.#shared();
    const words = parts.filter((part) => part !== "").map(sanitised);
    return [...words, ...(shared && !shared.isRenamed ? ["SHARED"] : [])].join("-");
  }

  #shared(): { readonly replicas: number; readonly strategy: string; readonly isRenamed: boolean } | undefined {
    if (this.#sharing === "off" || this.#sharing === undefined) return undefined;
    const { resources, strategy, renameByDefault } = this.#sharing;
    const own = resources.find(({ name }) => name === this.#name);
    return own && { replicas: own.replicas, strategy, isRenamed: renameByDefault };
  }

  #prefixed(values: Readonly<Record<string, string | number>>): Labels {
    return Object.fromEntries(Object.entries(values).map(([key, value]) => [`${this.#name}.${key}`, String(value)]));
  }
}
