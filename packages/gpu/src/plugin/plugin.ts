/** The device plugin: every resource's server, kept in step with CDI's directories, the devices' health and the kubelet's restarts. */
import { stat } from "node:fs/promises";
import { dirname } from "node:path";
import { type DirWatch, Registry, watchDirs } from "@berth/cdi";
import type { PluginConfig } from "./config.ts";
import { devicesOf, directoriesOf, type PluginDevice } from "./devices.ts";
import { PluginServer } from "./server.ts";

export interface Log {
  info(fields: object, message: string): void;
  warn(fields: object, message: string): void;
  error(fields: object, message: string): void;
}

export interface PluginOptions {
  readonly config: PluginConfig;
  readonly cdiSpecDirs: readonly string[];
  readonly kubeletSocket: string;
  readonly log: Log;
  /** ms between attempts to reach the kubelet. It is also tried whenever something changes beside its socket. */
  readonly retryMs?: number;
  /** ms between looks at the devices where no event tells of a change. */
  readonly examineMs?: number;
}

const RETRY_MS = 30_000;
const EXAMINE_MS = 30_000;
/** ms. Several events of one change are one. */
const SETTLE_MS = 20;

export class DevicePlugin {
  readonly #options: PluginOptions;
  readonly #stack = new AsyncDisposableStack();
  readonly #servers = new Map<string, PluginServer>();
  #registry: Registry | undefined;
  #kubelet: string | undefined;
  #watched: { readonly dirs: string; readonly watch: DirWatch } | undefined;
  #work: Promise<void> = Promise.resolve();
  #settle: NodeJS.Timeout | undefined;
  #retry: NodeJS.Timeout | undefined;

  private constructor(options: PluginOptions) {
    this.#options = options;
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
    this.#watchOver([dirname(kubeletSocket)]);
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
    clearTimeout(this.#retry);
    await this.#stack.disposeAsync();
    await this.#work;
    this.#watched?.watch.close();
    for (const server of this.#servers.values()) await server.close();
    this.#servers.clear();
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
    await this.#dropLost();
    // Watches first, contents after; contents that want other watches are looked at once more.
    for (let again = true; again;) {
      await this.#watched?.watch.rearm();
      const devices = await this.#examineDevices(registry);
      again = this.#watchOver([dirname(this.#options.kubeletSocket), ...directoriesOf(devices, registry)]);
    }
  }

  async #examineDevices(registry: Registry): Promise<PluginDevice[]> {
    const all: PluginDevice[] = [];
    for (const config of this.#options.config.resources) {
      const devices = await devicesOf(config, registry);
      all.push(...devices);
      const server = this.#servers.get(config.name);
      this.#tell(config.name, server?.devices ?? [], devices);
      if (server) server.update(devices);
      else await this.#register(new PluginServer(config, devices, this.#options.kubeletSocket));
    }
    return all;
  }

  /** A kubelet that starts removes every socket of its directory and knows of nobody. */
  async #dropLost(): Promise<void> {
    const kubelet = await identity(this.#options.kubeletSocket);
    for (const [name, server] of this.#servers) {
      if (kubelet === this.#kubelet && (await identity(server.socket)) !== undefined) continue;
      this.#options.log.info({ resource: name }, "the kubelet has started anew: registering again");
      this.#servers.delete(name);
      await server.close();
    }
    this.#kubelet = kubelet;
  }

  async #register(server: PluginServer): Promise<void> {
    const { log, retryMs } = this.#options;
    const { name } = server.config;
    try {
      await server.start();
      this.#servers.set(name, server);
      log.info(
        { resource: name, devices: server.devices.length, socket: server.socket },
        "registered with the kubelet",
      );
    } catch (error) {
      log.warn({ resource: name, err: error }, `cannot register with the kubelet yet: ${(error as Error).message}`);
      this.#retry ??= setTimeout(() => {
        this.#retry = undefined;
        void this.examine();
      }, retryMs ?? RETRY_MS).unref();
    }
  }

  #tell(resource: string, before: readonly PluginDevice[], now: readonly PluginDevice[]): void {
    const { log } = this.#options;
    const known = new Map(before.map((device) => [device.id, device]));
    for (const { id, problem } of now) {
      const was = known.get(id)?.problem;
      if (problem !== undefined && was !== problem)
        log.warn({ resource, device: id }, `device is unhealthy: ${problem}`);
      else if (problem === undefined && was !== undefined)
        log.info({ resource, device: id }, "device is healthy again");
    }
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

/** Another value is another file; undefined: there is none. */
async function identity(path: string): Promise<string | undefined> {
  try {
    const { dev, ino, ctimeNs } = await stat(path, { bigint: true });
    return `${dev}:${ino}:${ctimeNs}`;
  } catch {
    return undefined;
  }
}
