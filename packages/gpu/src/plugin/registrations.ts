/** Every resource's server, kept registered with a kubelet that comes, goes and starts anew. */
import { stat } from "node:fs/promises";
import type { ListedDevice, Offer } from "./offer.ts";
import type { OfferedResource, PluginMetrics } from "./metrics.ts";
import { PluginServer } from "./server.ts";

export interface Log {
  info(fields: object, message: string): void;
  warn(fields: object, message: string): void;
  error(fields: object, message: string): void;
}

export interface RegistrationOptions {
  readonly kubeletSocket: string;
  readonly log: Log;
  /** ms between attempts to reach the kubelet. */
  readonly retryMs?: number | undefined;
  readonly metrics?: PluginMetrics | undefined;
}

const RETRY_MS = 30_000;

interface Registered<D extends ListedDevice> {
  readonly server: PluginServer<D>;
  /** Which one has been told. */
  readonly kubelet: string | undefined;
}

export class Registrations<D extends ListedDevice> {
  readonly #options: RegistrationOptions;
  readonly #onRetry: () => void;
  readonly #servers = new Map<string, Registered<D>>();
  /** Those that the kubelet could not be told of. */
  readonly #waiting = new Map<string, readonly D[]>();
  #retry: NodeJS.Timeout | undefined;

  /** `onRetry`: the kubelet could not be reached a while ago; everything is to be offered again. */
  constructor(options: RegistrationOptions, onRetry: () => void) {
    this.#options = options;
    this.#onRetry = onRetry;
    if (options.metrics) options.metrics.offered = () => this.#offered();
  }

  /** A kubelet that starts removes every socket of its directory and knows of nobody. */
  async dropLost(): Promise<void> {
    const now = await identity(this.#options.kubeletSocket);
    for (const [name, { server, kubelet }] of this.#servers) {
      if (now === kubelet && (await identity(server.socket)) !== undefined) continue;
      this.#options.log.info({ resource: name }, "the kubelet has started anew: registering again");
      this.#servers.delete(name);
      await server.close();
    }
  }

  /** Whether the kubelet has been told of it. */
  has(name: string): boolean {
    return this.#servers.has(name);
  }

  /** Resolves when the kubelet has been told, or could not be. */
  async offer(offer: Offer<D>, devices: readonly D[]): Promise<void> {
    const server = this.#servers.get(offer.name)?.server;
    this.#tell(offer.name, server?.devices ?? [], devices);
    if (server) server.update(devices);
    else await this.#register(new PluginServer(offer, devices, this.#options.kubeletSocket, this.#options.metrics));
  }

  /** Those that are not among `names` any more are taken back. */
  async keepOnly(names: readonly string[]): Promise<void> {
    for (const name of this.#waiting.keys()) if (!names.includes(name)) this.#waiting.delete(name);
    for (const [name, { server }] of this.#servers) {
      if (names.includes(name)) continue;
      this.#servers.delete(name);
      await server.close();
    }
  }

  async close(): Promise<void> {
    clearTimeout(this.#retry);
    await this.keepOnly([]);
  }

  async #register(server: PluginServer<D>): Promise<void> {
    const { log, retryMs, metrics, kubeletSocket } = this.#options;
    const { name } = server.offer;
    // One that starts meanwhile is another, and told again.
    const kubelet = await identity(kubeletSocket);
    try {
      await server.start();
      this.#servers.set(name, { server, kubelet });
      this.#waiting.delete(name);
      if (kubeletSocket === "") {
        log.info({ resource: name, socket: server.socket }, "listens; there is no kubelet to be told");
        return;
      }
      metrics?.registered(name, "success");
      log.info(
        { resource: name, devices: server.devices.length, socket: server.socket },
        "registered with the kubelet",
      );
    } catch (error) {
      metrics?.registered(name, "failure");
      this.#waiting.set(name, server.devices);
      log.warn({ resource: name, err: error }, `cannot register with the kubelet yet: ${(error as Error).message}`);
      this.#retry ??= setTimeout(() => {
        this.#retry = undefined;
        this.#onRetry();
      }, retryMs ?? RETRY_MS).unref();
    }
  }

  #offered(): OfferedResource[] {
    const of = (name: string, devices: readonly D[], isRegistered: boolean): OfferedResource => {
      const healthy = devices.filter(({ problem }) => problem === undefined).length;
      return { name, isRegistered, healthy, unhealthy: devices.length - healthy };
    };
    return [
      ...[...this.#servers].map(([name, { server }]) => of(name, server.devices, this.#options.kubeletSocket !== "")),
      ...[...this.#waiting].map(([name, devices]) => of(name, devices, false)),
    ];
  }

  #tell(resource: string, before: readonly D[], now: readonly D[]): void {
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
