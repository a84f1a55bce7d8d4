/** The MPS control daemon of one resource: its GPUs are shared by as many processes as they have replicas. */
import { existsSync } from "node:fs";
import { mkdir, rm, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { COMPUTE_MODE, type Nvml } from "../nvml/library.ts";
import type { Log } from "../plugin/registrations.ts";
import type { Gpu } from "../plugin/nvidia/inventory.ts";
import { problemOfMps, startMps, tellMps } from "./control.ts";
import { type Places, placesOf } from "./places.ts";
import { run } from "./program.ts";
import { LogTail } from "./tail.ts";

export interface MpsDaemonOptions {
  readonly resource: string;
  readonly gpus: readonly Gpu[];
  /** Of each GPU. */
  readonly replicas: number;
  /** Where its files are. */
  readonly root: string;
  readonly openNvml: () => Nvml;
  readonly log: Log;
}

/** Of one MPS server: from Turing on, and before (compute capability below 7.5). */
const MOST_CLIENTS = 48;
const MOST_CLIENTS_OLD = 16;
const MIB = 2 ** 20;
/** What SELinux lets unprivileged containers use. */
const SELINUX_LABEL = "system_u:object_r:container_file_t:s0";

export class MpsDaemon {
  readonly resource: string;
  readonly #options: MpsDaemonOptions;
  readonly #places: Places;
  #tail: LogTail | undefined;

  /** Throws Error for what MPS cannot share. */
  constructor(options: MpsDaemonOptions) {
    const { resource, gpus, replicas, root } = options;
    if (gpus.some(({ parent }) => parent !== undefined))
      throw new Error(`${resource}: MPS sharing is not supported for MIG devices`);
    const least = Math.min(...gpus.map(({ compute }) => (Number(compute) >= 7.5 ? MOST_CLIENTS : MOST_CLIENTS_OLD)));
    if (replicas > least)
      throw new Error(
        `${resource}: invalid MPS configuration: maximum allowed replicas exceeded: ${replicas} > ${least}`,
      );
    this.resource = resource;
    this.#options = options;
    this.#places = placesOf(root, resource);
  }

  /** Resolves when clients may come, with their limits set. Rejects when it cannot run; then nothing runs. */
  async start(): Promise<void> {
    const { log } = this.#options;
    const { pipes, logs, started } = this.#places;
    await this.#quitOld();
    this.#setComputeMode(COMPUTE_MODE.exclusiveProcess);
    await mkdir(pipes, { recursive: true, mode: 0o755 });
    if (existsSync("/sys/fs/selinux")) await run("chcon", ["-R", SELINUX_LABEL, pipes]);
    await mkdir(logs, { recursive: true, mode: 0o755 });
    await startMps(this.#places);
    try {
      for (const command of this.limits()) await tellMps(this.#places, command);
      await writeFile(started, "");
    } catch (error) {
      await this.stop();
      throw error;
    }
    this.#tail = await LogTail.open(join(logs, "control.log"), (line) => log.info({ resource: this.resource }, line));
    log.info({ resource: this.resource, gpus: this.#options.gpus.length }, "the MPS control daemon runs");
  }

  /** undefined: it answers. */
  problem(): Promise<string | undefined> {
    return problemOfMps(this.#places);
  }

  /** Rejects when it does not end. */
  async stop(): Promise<void> {
    // First, that no plugin offers what is about to go.
    await rm(this.#places.started, { force: true });
    try {
      await tellMps(this.#places, "quit");
    } finally {
      this.#tail?.close();
      this.#setComputeMode(COMPUTE_MODE.default);
    }
    await rm(this.#places.logs, { recursive: true, force: true });
  }

  /** Each client gets its part of a GPU's memory and of its threads. */
  limits(): string[] {
    const { gpus, replicas } = this.#options;
    const memory = gpus.flatMap(({ index, memory: total }) =>
      total === 0 ? [] : [`set_default_device_pinned_mem_limit ${index} ${Math.floor(total / replicas / MIB)}M`],
    );
    return [...memory, `set_default_active_thread_percentage ${Math.floor(100 / replicas)}`];
  }

  /** Of a process before this one, which was killed. */
  async #quitOld(): Promise<void> {
    if (existsSync(this.#places.started) && (await this.problem()) === undefined) await tellMps(this.#places, "quit");
    await rm(this.#places.started, { force: true });
  }

  #setComputeMode(mode: number): void {
    using nvml = this.#options.openNvml();
    const own = new Set(this.#options.gpus.map(({ uuid }) => uuid));
    for (const handle of nvml.gpus()) if (own.has(nvml.uuid(handle))) nvml.setComputeMode(handle, mode);
  }
}
