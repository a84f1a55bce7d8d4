/** Node labels, made now and again: what NVML and sysfs say, told by a file or by the cluster's API server. */
import { readFileSync } from "node:fs";
import { Driver } from "../generate/driver.ts";
import { platformOf } from "../generate/platform.ts";
import { Nvml } from "../nvml/library.ts";
import { NVML_NAME } from "../nvml/name.ts";
import type { Log } from "../plugin/registrations.ts";
import type { LabelCommandSettings, LabelFlags } from "./command.ts";
import { type NodeFacts, nodeFacts } from "./facts.ts";
import { labelsOf } from "./labels.ts";
import { formatLabels, removeLabels, writeLabels } from "./output.ts";
import type { Labels } from "./resource.ts";
import { vgpuLabels } from "./vgpu.ts";

export interface LabelServiceOptions {
  readonly settings: LabelCommandSettings;
  readonly log: Log;
  /** Where labels go that no file is named for. */
  readonly print: (text: string) => void;
  /** /sys/bus/pci/devices. */
  readonly pciDevices?: string;
}

const PCI_DEVICES = "/sys/bus/pci/devices";
/** ms; what setTimeout takes at most. */
const LONGEST = 2 ** 31 - 1;

interface Output {
  write(labels: Labels): Promise<void>;
}

export class LabelService {
  readonly #options: LabelServiceOptions;
  readonly #started = Math.floor(Date.now() / 1000);
  readonly #output: Output;
  #timer: NodeJS.Timeout | undefined;
  #work: Promise<void> = Promise.resolve();
  #closed = false;

  private constructor(options: LabelServiceOptions, output: Output) {
    this.#options = options;
    this.#output = output;
  }

  /**
   * Resolves when labels have been made once. Rejects where they cannot be: with `failOnInitError` also where NVML cannot be asked, which
   * otherwise leaves its labels out.
   */
  static async start(options: LabelServiceOptions): Promise<LabelService> {
    const service = new LabelService(options, await outputOf(options));
    await service.label();
    service.#sleep();
    return service;
  }

  get isDone(): boolean {
    return this.#flags.oneshot;
  }

  /** Makes labels now. */
  async label(): Promise<void> {
    const labels = this.#labels();
    if (Object.keys(labels).length <= 1) this.#options.log.warn({}, "no labels generated from any source");
    await this.#output.write(labels);
    this.#options.log.info({ labels: Object.keys(labels).length }, "labels are made");
  }

  /** The file goes, unless it was meant to stay. */
  async close(): Promise<void> {
    const { oneshot, sleepInterval, useNodeFeatureAPI, outputFile } = this.#flags;
    this.#closed = true;
    clearTimeout(this.#timer);
    await this.#work;
    if (!useNodeFeatureAPI && !oneshot && sleepInterval !== Infinity && outputFile !== "")
      await removeLabels(outputFile);
  }

  get #flags(): LabelFlags {
    return this.#options.settings.flags;
  }

  #sleep(): void {
    const { oneshot, sleepInterval } = this.#flags;
    if (oneshot || this.#closed) return;
    // Never again; the timer is for the process to live by.
    const ms = Math.min(sleepInterval, LONGEST);
    this.#timer = setTimeout(() => {
      this.#work = sleepInterval === Infinity ? Promise.resolve() : this.#again();
      void this.#work.then(() => this.#sleep());
    }, ms);
  }

  async #again(): Promise<void> {
    try {
      await this.label();
    } catch (error) {
      this.#options.log.error({ err: error }, `labels stay as they were: ${(error as Error).message}`);
    }
  }

  #labels(): Labels {
    const { settings, log, pciDevices = PCI_DEVICES } = this.#options;
    const warn = (text: string): void => log.warn({}, text);
    const facts = this.#facts(pciDevices, warn);
    return {
      ...(this.#flags.noTimestamp ? {} : { "nvidia.com/gfd.timestamp": String(this.#started) }),
      ...(facts &&
        labelsOf(facts, machineType(this.#flags.machineTypeFile, warn), { ...settings, ...this.#flags }, warn)),
      ...virtualLabels(pciDevices, warn),
    };
  }

  #facts(pciDevices: string, warn: (text: string) => void): NodeFacts | undefined {
    try {
      using nvml = openNvml(this.#flags);
      return nodeFacts(nvml, pciDevices, warn);
    } catch (error) {
      if (this.#flags.failOnInitError) throw error;
      warn(`failed to initialize resource manager: ${(error as Error).message}`);
      return undefined;
    }
  }
}

/** Throws Error where NVML cannot be loaded, and for the systems that have none. */
function openNvml({ deviceDiscoveryStrategy: strategy, containerDriverRoot }: LabelFlags): Nvml {
  const root = containerDriverRoot.replace(/\/+$/, "");
  const found = Driver.findNvml(root);
  const isOther = strategy === "auto" && platformOf(found === undefined ? "" : root) === "csv";
  if (isOther || strategy === "tegra" || strategy === "vfio")
    throw new Error(`labels by ${isOther ? "tegra" : strategy} are not supported: only what NVML knows is told`);
  return new Nvml(found ?? NVML_NAME);
}

/** What product this machine is, by its firmware. */
function machineType(file: string, warn: (text: string) => void): string {
  if (file === "") return "unknown";
  try {
    return readFileSync(file, "utf8").trim();
  } catch (error) {
    warn(`error getting machine type: ${(error as Error).message}`);
    return "unknown";
  }
}

function virtualLabels(pciDevices: string, warn: (text: string) => void): Labels {
  try {
    return vgpuLabels(pciDevices);
  } catch (error) {
    warn(`unable to get vGPU devices: ${(error as Error).message}`);
    return {};
  }
}

async function outputOf({ settings, log, print }: LabelServiceOptions): Promise<Output> {
  const { flags, kube } = settings;
  if (!flags.useNodeFeatureAPI)
    return {
      write: async (labels) =>
        flags.outputFile === "" ? print(formatLabels(labels)) : await writeLabels(flags.outputFile, labels),
    };
  if (kube.node === "") throw new Error("required flag node-name not set");
  if (kube.namespace === "") throw new Error("required flag namespace not set");
  // Who writes a file has no use for these.
  const [{ byKubeconfig, inCluster }, { NodeFeatureOutput }] = await Promise.all([
    import("./kube.ts"),
    import("./node-feature.ts"),
  ]);
  const access = kube.kubeconfig === "" ? inCluster(process.env) : byKubeconfig(kube.kubeconfig);
  return new NodeFeatureOutput({ ...kube, access, warn: (text) => log.warn({}, text) });
}
