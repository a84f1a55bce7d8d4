/** The MPS control daemons of a node: one for each resource whose GPUs are shared by MPS, kept alive. */
import { mkdir, rm, writeFile } from "node:fs/promises";
import { dirname } from "node:path";
import { Nvml } from "../nvml/library.ts";
import { inventory } from "../plugin/nvidia/inventory.ts";
import { resourcesOf } from "../plugin/nvidia/offers.ts";
import type { NvidiaSettings } from "../plugin/nvidia/settings.ts";
import type { Log } from "../plugin/registrations.ts";
import { MpsDaemon } from "./daemon.ts";
import { readyFile } from "./places.ts";

export interface MpsServiceOptions {
  readonly settings: NvidiaSettings;
  /** NVML. */
  readonly library: string;
  readonly log: Log;
  /** ms between questions whether they answer, and before another try. */
  readonly checkMs?: number;
}

const CHECK_MS = 30_000;

export class MpsService {
  readonly #options: MpsServiceOptions;
  #daemons: MpsDaemon[] = [];
  /** All of them run. */
  #complete = false;
  #timer: NodeJS.Timeout | undefined;
  #work: Promise<void> = Promise.resolve();
  #closed = false;

  private constructor(options: MpsServiceOptions) {
    this.#options = options;
  }

  /** Resolves when all run, or have been tried. Rejects where NVML, or the configuration, says no. */
  static async start(options: MpsServiceOptions): Promise<MpsService> {
    const service = new MpsService(options);
    await service.#begin();
    service.#timer = setInterval(() => void service.check(), options.checkMs ?? CHECK_MS);
    return service;
  }

  /** Names of the resources whose daemons run. */
  get resources(): string[] {
    return this.#daemons.map(({ resource }) => resource);
  }

  /** Asks each whether it answers; resolves when those that do not have been started anew. */
  check(): Promise<void> {
    this.#work = this.#work.then(() => this.#check());
    return this.#work;
  }

  /** Rejects where one does not end. */
  async close(): Promise<void> {
    this.#closed = true;
    clearInterval(this.#timer);
    await this.#work;
    await rm(this.#ready, { force: true });
    for (const daemon of this.#daemons.splice(0)) await daemon.stop();
  }

  get #ready(): string {
    return readyFile(this.#options.settings.flags.mpsContainerRoot);
  }

  async #begin(): Promise<void> {
    const { log, settings } = this.#options;
    if (settings.sharing?.strategy !== "mps") log.info({}, "sharing is not by MPS: there is no daemon to run");
    const wanted = this.#wanted();
    for (const daemon of wanted) {
      if (this.#daemons.some(({ resource }) => resource === daemon.resource)) continue;
      try {
        await daemon.start();
        this.#daemons.push(daemon);
      } catch (error) {
        log.error(
          { resource: daemon.resource, err: error },
          `the MPS control daemon does not run: ${(error as Error).message}`,
        );
      }
    }
    this.#complete = this.#daemons.length === wanted.length;
    if (!this.#complete) return;
    await mkdir(dirname(this.#ready), { recursive: true });
    await writeFile(this.#ready, "");
    log.info({ resources: this.resources }, "ready");
  }

  async #check(): Promise<void> {
    if (this.#closed) return;
    const { log } = this.#options;
    // Those that do not answer leave this list.
    const running = this.#daemons;
    for (const daemon of running) {
      const problem = await daemon.problem();
      if (problem === undefined) continue;
      log.error(
        { resource: daemon.resource },
        `the MPS control daemon does not answer, and is started anew: ${problem}`,
      );
      this.#complete = false;
      await rm(this.#ready, { force: true });
      this.#daemons = this.#daemons.filter((other) => other !== daemon);
      await daemon.stop().catch((error: unknown) => {
        log.warn({ resource: daemon.resource }, `stopping what is left of it: ${(error as Error).message}`);
      });
    }
    if (this.#complete) return;
    try {
      await this.#begin();
    } catch (error) {
      log.error({ err: error }, `no MPS control daemon was started: ${(error as Error).message}`);
    }
  }

  /** Throws for what cannot be shared. */
  #wanted(): MpsDaemon[] {
    const { settings, library, log } = this.#options;
    if (settings.sharing?.strategy !== "mps") return [];
    const openNvml = (): Nvml => new Nvml(library);
    using nvml = openNvml();
    return resourcesOf(inventory(nvml), settings)
      .filter(({ replicas, gpus, offer }) => {
        const isDivided = gpus.some(({ parent }) => parent !== undefined);
        if (isDivided && replicas > 1)
          log.warn({ resource: offer.name }, "MPS sharing is not supported for MIG devices; skipping daemon creation");
        return replicas > 1 && !isDivided;
      })
      .map(
        ({ offer, gpus, replicas }) =>
          new MpsDaemon({
            resource: offer.name,
            gpus,
            replicas,
            root: settings.flags.mpsContainerRoot,
            openNvml,
            log,
          }),
      );
  }
}
