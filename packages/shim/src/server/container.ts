/** A container of this shim: held by a bosun monitor, whatever makes it. */
import { mkdir, rm } from "node:fs/promises";
import { connectMonitor, MonitorLost, type MonitorLink, type MonitorState, readRecord } from "@berth/kernel";
import { readBundle } from "@berth/runtime";
import type { oci } from "@berth/spec";
import { type runcOptions, taskTypes } from "@berth/spec/shim";
import type { task } from "@berth/spec/shim";
import type { Any } from "@bufbuild/protobuf/wkt";
import { CODE, TtrpcError } from "@berth/ttrpc";
import { ExecProcess } from "./exec.ts";
import type { Machine, Maker, Making, PreparedExec } from "./making.ts";
import { TaskProcess } from "./process.ts";

const SIGKILL = 9;
/** A monitor that has gone without a word. */
const UNKNOWN_CODE = 255;
const NS_IN_MS = 1_000_000n;

export class Container extends TaskProcess {
  readonly id: string;
  readonly bundle: string;
  readonly execs = new Map<string, ExecProcess>();
  /** Resolves when something of it is killed for memory; never, where it is never started or nothing was. */
  readonly killedForMemory: Promise<void>;
  readonly #killedForMemory = Promise.withResolvers<void>();
  paused = false;
  readonly #making: Making;
  readonly #machine: Machine;
  readonly #dir: string;
  protected link: MonitorLink | undefined;
  protected session: number | undefined;

  private constructor(maker: Maker, request: task.CreateTaskRequest, dir: string) {
    super(request.terminal, request);
    const { id, bundle, terminal, rootfs, stdin, checkpoint, options } = request;
    this.id = id;
    this.bundle = bundle;
    this.killedForMemory = this.#killedForMemory.promise;
    this.#machine = maker.machine;
    this.#dir = dir;
    const { spec, rootfs: rootfsPath } = readBundle(bundle);
    const what = { id, bundle, spec, rootfsPath, rootfs, terminal, stdin: stdin !== "", dir, checkpoint, options };
    this.#making = maker.making(what);
  }

  /** Up to where it would run. What a failure leaves is taken back. */
  static async create(maker: Maker, request: task.CreateTaskRequest, dir: string): Promise<Container> {
    const container = new Container(maker, request, dir);
    try {
      await container.#make(request);
      return container;
    } catch (error) {
      await container.release();
      throw error;
    }
  }

  protected override get reached(): number {
    return this.session ?? 0;
  }

  override get status(): taskTypes.Status {
    const status = super.status;
    return status === taskTypes.Status.RUNNING && this.paused ? taskTypes.Status.PAUSED : status;
  }

  async start(): Promise<void> {
    const { link } = this;
    if (!link || this.session !== undefined || this.exit)
      throw new TtrpcError(CODE.failedPrecondition, `container ${this.id} is not created, it is started already`);
    try {
      await this.#making.start(async () => {
        this.pid = (await link.start()).pid;
        this.session = 0;
        return this.pid;
      });
    } catch (error) {
      // Whoever hears of it asks next whether it is stopped, and deletes nothing that is not.
      await ignoreLost(async () => void (await link.kill(0, SIGKILL)));
      await this.ended;
      throw error;
    }
  }

  async exec(request: task.ExecProcessRequest, process: oci.Process): Promise<void> {
    if (this.execs.has(request.execId)) throw new TtrpcError(CODE.alreadyExists, `id ${request.execId} already exists`);
    this.execs.set(request.execId, new ExecProcess(this, request, process));
    await Promise.resolve();
  }

  /** Of a further process; FailedPrecondition: the container does not run. */
  async execPlan(process: oci.Process): Promise<PreparedExec & { readonly link: MonitorLink }> {
    if (!this.link || this.session === undefined || this.exit)
      throw new TtrpcError(CODE.failedPrecondition, `container ${this.id} does not run`);
    return { ...(await this.#making.exec(this.pid, process)), link: this.link };
  }

  override async kill(signal: number): Promise<void> {
    await this.#orItself(signal, this.#making.signal?.bind(this.#making));
  }

  /** Every process of it, where `signal` is SIGKILL. */
  async killAll(signal: number): Promise<void> {
    if (signal === SIGKILL) await this.#orItself(signal, () => this.#making.killAll());
    else await this.kill(signal);
  }

  async pause(): Promise<void> {
    await this.#making.pause();
    this.paused = true;
  }

  async resume(): Promise<void> {
    await this.#making.resume();
    this.paused = false;
  }

  async update(resources: oci.LinuxResources): Promise<void> {
    await this.#making.update(resources);
  }

  async stats(): Promise<Any> {
    return await this.#making.stats();
  }

  async pids(): Promise<readonly number[]> {
    return await this.#making.pids();
  }

  async checkpoint(path: string, options: runcOptions.CheckpointOptions | undefined): Promise<void> {
    await this.#making.checkpoint(this.pid, path, options);
  }

  /** Everything of it, also of one that was not made whole. */
  async release(): Promise<void> {
    if (this.link && !this.exit) await ignoreLost(async () => void (await this.link?.kill(0, SIGKILL)));
    for (const exec of this.execs.values()) await exec.release();
    await this.#making.release();
    this.link?.close();
    await rm(this.#dir, { recursive: true, force: true });
  }

  /** What cannot be killed by what has made it, is by its monitor. */
  async #orItself(signal: number, send: ((signal: number) => Promise<void>) | undefined): Promise<void> {
    if (!send || this.exit || this.session === undefined) return await super.kill(signal);
    try {
      await send(signal);
    } catch (error) {
      if (signal !== SIGKILL) throw error;
      this.#machine.log(`container ${this.id}: ${(error as Error).message}; it is killed from here`);
      await super.kill(signal);
    }
  }

  async #make(request: task.CreateTaskRequest): Promise<void> {
    await mkdir(this.#dir, { recursive: true, mode: 0o700 });
    const { plan, oom, subreaper = false, told } = await this.#making.prepare();
    const made = this.#machine.hand.monitor({
      dir: this.#dir,
      plan,
      terminal: this.terminal ? { rows: 24, columns: 80 } : undefined,
      stdin: request.stdin !== "",
      // containerd says by CloseIO when it ends.
      stdinOnce: true,
      subreaper,
      oom,
    });
    const { pid } = await (told?.(made) ?? made);
    this.pid = pid;
    const link = (this.link = await connectMonitor(this.#dir, plan));
    link.exited.then(
      (state) => this.#concluded(state),
      // It says so on the disk before it says so to anybody; a word to it that crossed its end has cost its last one.
      async () => await this.#concluded(await readRecord(this.#dir)),
    );
    link.oomKilled().then(
      (happened) => happened && this.#killedForMemory.resolve(),
      () => undefined, // the monitor has gone, and the container with it
    );
    await this.#making.parked(pid);
    await this.streams.connect(link, 0, request, this.terminal);
  }

  async #concluded(state: MonitorState | undefined): Promise<void> {
    if (state?.oom) this.#killedForMemory.resolve();
    await this.streams.drained();
    if (state?.phase === "exited") this.hasEnded({ code: state.code, at: state.finishedAt });
    else this.hasEnded({ code: UNKNOWN_CODE, at: BigInt(Date.now()) * NS_IN_MS });
  }
}

async function ignoreLost(work: () => Promise<void>): Promise<void> {
  try {
    await work();
  } catch (error) {
    if (!(error instanceof MonitorLost)) throw error;
  }
}
