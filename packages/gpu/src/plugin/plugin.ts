/** The device plugin: every resource's server, kept in step with CDI's directories, the devices' health and the kubelet's restarts. */
import { type DirWatch, Registry, watchDirs } from "@berth/cdi";
import type { PluginConfig } from "./config.ts";
import { offerOf } from "./allocate.ts";
import { devicesOf, directoriesOf, type PluginDevice } from "./devices.ts";
import { socketDirectory } from "./kubelet.ts";
import type { PluginMetrics } from "./metrics.ts";
import { type Log, Registrations } from "./registrations.ts";

export interface PluginOptions {
  readonly config: PluginConfig;
  readonly cdiSpecDirs: readonly string[];
  readonly kubeletSocket: string;
  readonly log: Log;
  /** ms between attempts to reach the kubelet. It is also tried whenever something changes beside its socket. */
  readonly retryMs?: number;
  /** ms between looks at the devices where no event tells of a change. */
  readonly examineMs?: number;
  readonly metrics?: PluginMetrics;
}

const EXAMINE_MS = 30_000;
/** ms. Several events of one change are one. */
const SETTLE_MS = 20;

export class DevicePlugin {
  readonly #options: PluginOptions;
  readonly #stack = new AsyncDisposableStack();
  readonly #registrations: Registrations<PluginDevice>;
  #registry: Registry | undefined;
  #watched: { readonly dirs: string; readonly watch: DirWatch } | undefined;
  #work: Promise<void> = Promise.resolve();
  #settle: NodeJS.Timeout | undefined;

  private constructor(options: PluginOptions) {
    this.#options = options;
    this.#registrations = new Registrations(options, () => void this.examine());
  }

  /** Resolves when every resource has been offered to the kubelet once, whether it was there or not. */
  static async start(options: PluginOptions): Promise<DevicePlugin> {
    const plugin = new DevicePlugin(options);
    await plugin.#open();
    return plugin;
  }

  async #open(): Promise<void> {
    const { cdiSpecDirs, kubeletSocket, examineMs } = this.#options;
    const changed = (): void => this.#changed();
    const registry = await Registry.open({ dirs: cdiSpecDirs, onChange: changed });
    this.#registry = registry;
    this.#stack.defer(() => registry.close());
    this.#watchOver([socketDirectory(kubeletSocket)]);
    const timer = setInterval(changed, examineMs ?? EXAMINE_MS).unref();
    this.#stack.defer(() => clearInterval(timer));
    await this.examine();
  }

  /** Looks at everything now: devices, health, sockets; resolves when the kubelet has been told. */
  examine(): Promise<void> {
    this.#work = this.#work.then(() => this.#examine());
    return this.#work;
  }

  async close(): Promise<void> {
    clearTimeout(this.#settle);
    await this.#stack.disposeAsync();
    await this.#work;
    this.#watched?.watch.close();
    await this.#registrations.close();
  }

  #changed(): void {
    if (this.#stack.disposed) return;
    this.#settle ??= setTimeout(() => {
      this.#settle = undefined;
      void this.examine();
    }, SETTLE_MS).unref();
  }

  async #examine(): Promise<void> {
    const registry = this.#registry;
    if (this.#stack.disposed || !registry) return;
    await this.#registrations.dropLost();
    // Watches first, contents after; contents that want other watches are looked at once more.
    for (let again = true; again;) {
      await this.#watched?.watch.rearm();
      const devices = await this.#examineDevices(registry);
      again = this.#watchOver([socketDirectory(this.#options.kubeletSocket), ...directoriesOf(devices, registry)]);
    }
  }

  async #examineDevices(registry: Registry): Promise<PluginDevice[]> {
    const all: PluginDevice[] = [];
    for (const config of this.#options.config.resources) {
      const devices = await devicesOf(config, registry);
      all.push(...devices);
      await this.#registrations.offer(offerOf(config), devices);
    }
    return all;
  }

  /** Whether these are others than before. */
  #watchOver(dirs: readonly string[]): boolean {
    const key = dirs.join("\n");
    if (this.#watched?.dirs === key) return false;
    this.#watched?.watch.close();
    this.#watched = { dirs: key, watch: watchDirs(dirs, () => this.#changed()) };
    return true;
  }
}
