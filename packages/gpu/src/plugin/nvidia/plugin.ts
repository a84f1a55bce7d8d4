/** NVIDIA's GPUs as resources of the node: found by NVML, watched by XID events, offered to the kubelet. */
import { existsSync } from "node:fs";
import { mkdir } from "node:fs/promises";
import { dirname } from "node:path";
import { type DirWatch, type CdiSpec, specName, watchDirs, writeSpec } from "@berth/cdi";
import { Driver } from "../../generate/driver.ts";
import { generateGated, generateImex } from "../../generate/gated.ts";
import { hookMaker } from "../../generate/hooks.ts";
import { generate } from "../../generate/nvml.ts";
import { withRoot } from "../../generate/root.ts";
import { Nvml } from "../../nvml/library.ts";
import { NVML_NAME } from "../../nvml/name.ts";
import { type Log, Registrations } from "../registrations.ts";
import { Health } from "./health.ts";
import { inventory, type Inventory } from "./inventory.ts";
import { CDI_VENDOR, listed, type NvidiaDevice, type NvidiaResource, resourcesOf } from "./offers.ts";
import type { NvidiaSettings } from "./settings.ts";
import type { XidRules } from "./xids.ts";

export interface NvidiaPluginOptions {
  readonly settings: NvidiaSettings;
  readonly rules: XidRules;
  readonly kubeletSocket: string;
  /** Where its CDI specifications are written. */
  readonly cdiDir: string;
  readonly log: Log;
  readonly retryMs?: number;
  /** ms between looks at what NVML has: MIG devices come and go without an event. */
  readonly examineMs?: number;
  /** See Health. */
  readonly quietMs?: number;
}

const EXAMINE_MS = 30_000;
const QUIET_MS = 300_000;

export class NvidiaPlugin {
  readonly #options: NvidiaPluginOptions;
  readonly #registrations: Registrations<NvidiaDevice>;
  readonly #health: Health;
  readonly #library: string;
  #found = "";
  #resources: NvidiaResource[] = [];
  #watch: DirWatch | undefined;
  #timer: NodeJS.Timeout | undefined;
  #work: Promise<void> = Promise.resolve();
  #closed = false;

  private constructor(given: NvidiaPluginOptions) {
    const options = { ...given, settings: withChannels(given.settings) };
    this.#options = options;
    const again = (): void => void this.examine();
    this.#registrations = new Registrations(options, again);
    this.#library = Driver.findNvml(rootOf(options.settings)) ?? NVML_NAME;
    this.#health = new Health({
      library: this.#library,
      rules: options.rules,
      quietMs: options.quietMs ?? QUIET_MS,
      log: options.log,
      onChange: again,
    });
  }

  /** Rejects where NVML or the MIG strategy says no, unless `failOnInitError` is off: then it is tried again later. */
  static async start(options: NvidiaPluginOptions): Promise<NvidiaPlugin> {
    const plugin = new NvidiaPlugin(options);
    try {
      await plugin.#examine();
    } catch (error) {
      if (options.settings.flags.failOnInitError) {
        await plugin.close();
        throw error;
      }
      options.log.error({ err: error }, `no GPU is offered: ${(error as Error).message}`);
    }
    plugin.#watch = watchDirs([dirname(options.kubeletSocket)], () => void plugin.examine());
    plugin.#timer = setInterval(() => void plugin.examine(), options.examineMs ?? EXAMINE_MS).unref();
    return plugin;
  }

  /** Looks at everything now; resolves when the kubelet has been told. */
  examine(): Promise<void> {
    this.#work = this.#work.then(async () => {
      try {
        await this.#examine();
      } catch (error) {
        this.#options.log.error({ err: error }, (error as Error).message);
      }
    });
    return this.#work;
  }

  async close(): Promise<void> {
    this.#closed = true;
    clearInterval(this.#timer);
    this.#watch?.close();
    await this.#work;
    await this.#health[Symbol.asyncDispose]();
    await this.#registrations.close();
  }

  async #examine(): Promise<void> {
    if (this.#closed) return;
    await this.#registrations.dropLost();
    await this.#watch?.rearm();
    const found = this.#ask(inventory);
    await this.#renew(found);
    await this.#health.watch(found.gpus);
    const problems = this.#health.problems();
    await this.#registrations.keepOnly(this.#resources.map(({ offer }) => offer.name));
    for (const resource of this.#resources) await this.#registrations.offer(resource.offer, listed(resource, problems));
  }

  /** New resources and specifications, when there are other devices than before. */
  async #renew(found: Inventory): Promise<void> {
    const seen = JSON.stringify(found.gpus);
    if (seen === this.#found) return;
    this.#resources = resourcesOf(found, this.#options.settings);
    if (this.#resources.length === 0)
      this.#options.log.warn({}, "no devices found: NVML knows no GPU that could be offered");
    for (const spec of this.#specifications()) {
      await mkdir(this.#options.cdiDir, { recursive: true, mode: 0o755 });
      await writeSpec(this.#options.cdiDir, `${specName(spec.kind)}.json`, spec);
    }
    this.#found = seen;
  }

  #ask<T>(question: (nvml: Nvml) => T): T {
    using nvml = new Nvml(this.#library);
    return question(nvml);
  }

  #specifications(): CdiSpec[] {
    const { settings } = this.#options;
    const { flags, imex } = settings;
    if (this.#resources.length === 0 || !flags.deviceListStrategy.some((one) => one.startsWith("cdi-"))) return [];
    const driverRoot = rootOf(settings);
    const roots = { driverRoot, devRoot: (flags.nvidiaDevRoot ?? driverRoot).replace(/\/+$/, "") };
    const hooks = hookMaker(flags.nvidiaCTKPath, []);
    const gpu = { ...roots, kind: `${CDI_VENDOR}/gpu`, hooks, ldconfigPath: undefined };
    const names = [flags.deviceIDStrategy];
    const gated = { gdrcopy: flags.gdrcopyEnabled, gds: flags.gdsEnabled, mofed: flags.mofedEnabled } as const;
    const specs = [
      this.#ask((nvml) => generate(nvml, { ...gpu, names, ids: ["all"], all: true })),
      ...(imex.channelIDs.length > 0
        ? [generateImex(imex.channelIDs.map(String), { ...roots, kind: `${CDI_VENDOR}/imex-channel` })]
        : []),
      ...(["gdrcopy", "gds", "mofed"] as const)
        .filter((mode) => gated[mode])
        .map((mode) => generateGated(mode, { ...roots, kind: `${CDI_VENDOR}/${mode}` })),
    ];
    // What this process sees at one place is for the runtime at another.
    return specs.map((spec) => withRoot(spec, "host", driverRoot, flags.nvidiaDriverRoot));
  }
}

/** Channels of IMEX that are not there are left out, unless they are required. Throws Error. */
function withChannels(settings: NvidiaSettings): NvidiaSettings {
  const { channelIDs, required } = settings.imex;
  const root = (settings.flags.nvidiaDevRoot ?? rootOf(settings)).replace(/\/+$/, "");
  const pathOf = (id: number): string => `${root}/dev/nvidia-caps-imex-channels/channel${id}`;
  const there = channelIDs.filter((id) => existsSync(pathOf(id)));
  const missing = channelIDs.find((id) => !there.includes(id));
  if (required && missing !== undefined)
    throw new Error(`IMEX channel ${missing} is required and not there: ${pathOf(missing)}`);
  return { ...settings, imex: { channelIDs: there, required } };
}

/** Where the driver is for this process: a container has it mounted. */
function rootOf({ flags }: NvidiaSettings): string {
  const mounted = flags.containerDriverRoot.replace(/\/+$/, "");
  const own = flags.nvidiaDriverRoot.replace(/\/+$/, "");
  return Driver.findNvml(mounted) === undefined ? own : mounted;
}
