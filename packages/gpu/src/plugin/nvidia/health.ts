/** Which devices are unhealthy, by XID events, and when they are healthy again. */
import { Worker } from "node:worker_threads";
import type { XidEvent } from "../../nvml/library.ts";
import type { PluginMetrics } from "../metrics.ts";
import type { Log } from "../registrations.ts";
import type { HealthMessage, HealthOrders } from "./health-worker.ts";
import type { Gpu } from "./inventory.ts";
import { concerned } from "./offers.ts";
import type { XidRules } from "./xids.ts";

export interface HealthOptions {
  /** NVML. */
  readonly library: string;
  readonly rules: XidRules;
  /** ms without another critical error after which a device that NVML still answers for is healthy again. */
  readonly quietMs: number;
  readonly log: Log;
  readonly metrics: PluginMetrics | undefined;
  readonly onChange: () => void;
}

const RESTART_MS = 30_000;

export class Health implements AsyncDisposable {
  readonly #options: HealthOptions;
  readonly #since = new Map<string, { readonly text: string; readonly at: number }>();
  readonly #ended = new Int32Array(new SharedArrayBuffer(Int32Array.BYTES_PER_ELEMENT));
  #gpus: readonly Gpu[] = [];
  #worker: Worker | undefined;
  #broken: string | undefined;
  #timer: NodeJS.Timeout | undefined;
  #closed = false;

  constructor(options: HealthOptions) {
    this.#options = options;
  }

  /** Resolves when events are waited for, or cannot be. */
  async watch(gpus: readonly Gpu[]): Promise<void> {
    this.#gpus = gpus;
    if (this.#options.rules.off || this.#worker || this.#closed) return;
    const worker = new Worker(new URL("./health-worker.ts", import.meta.url), {
      workerData: { library: this.#options.library, ended: this.#ended } satisfies HealthOrders,
    });
    worker.unref();
    this.#worker = worker;
    const { promise, resolve } = Promise.withResolvers<void>();
    worker.on("message", (message: HealthMessage) => {
      if (message.kind === "xid") return this.#happened(message.event);
      this.#broken = undefined;
      resolve();
    });
    worker.on("error", (error) => {
      this.#fail((error as Error).message);
      resolve();
    });
    worker.on("exit", () => {
      if (this.#worker === worker) this.#worker = undefined;
      resolve();
    });
    await promise;
  }

  /** Device UUIDs, with what is wrong. */
  problems(): Map<string, string> {
    const now = Date.now();
    for (const [uuid, { at }] of this.#since) if (now - at >= this.#options.quietMs) this.#since.delete(uuid);
    // Whoever cannot be told of errors does not know that a device is well.
    if (this.#broken !== undefined) {
      const text = `health cannot be watched: ${this.#broken}`;
      return new Map(this.#gpus.map(({ uuid }) => [uuid, text]));
    }
    return new Map([...this.#since].map(([uuid, { text }]) => [uuid, text]));
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.#closed = true;
    clearTimeout(this.#timer);
    if (!this.#worker) return;
    const { promise, resolve } = Promise.withResolvers<void>();
    this.#worker.once("exit", () => resolve());
    this.#worker.ref();
    Atomics.store(this.#ended, 0, 1);
    await promise;
  }

  #happened(event: XidEvent): void {
    const { rules, log, metrics, quietMs, onChange } = this.#options;
    const devices = concerned(this.#gpus, event);
    metrics?.xid(event.uuid, event.xid, !rules.isIgnored(event.xid));
    if (rules.isIgnored(event.xid)) {
      log.info({ xid: event.xid, gpu: event.uuid }, "an application's own error: no device is unhealthy by it");
      return;
    }
    for (const uuid of devices)
      this.#since.set(uuid, { text: `XID ${event.xid} of GPU ${event.uuid}`, at: Date.now() });
    if (devices.length === 0) return;
    onChange();
    this.#lookAgain(quietMs);
  }

  #fail(message: string): void {
    if (this.#closed) return;
    this.#broken = message;
    this.#options.log.error({}, `waiting for XID events failed: ${message}`);
    this.#options.onChange();
    this.#lookAgain(RESTART_MS);
  }

  #lookAgain(ms: number): void {
    this.#timer = setTimeout(this.#options.onChange, ms + 1).unref();
  }
}
