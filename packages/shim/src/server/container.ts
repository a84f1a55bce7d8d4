/** A container of this shim: made from its bundle by the same plans as berthd's, held by a bosun monitor. */
import { mkdir, rm } from "node:fs/promises";
import {
  compileSeccomp,
  connectMonitor,
  freeze,
  type Hand,
  type HostFacts,
  killCgroup,
  type MonitorLink,
  oomCounter,
  type Plan,
  systemdPlace,
  SystemdLink,
  type SystemdPlace,
  thaw,
} from "@berth/kernel";
import { cgroupRemoval, planContainer, planExec, readBundle, type Rootfs, updateResources } from "@berth/runtime";
import type { oci } from "@berth/spec";
import { taskTypes } from "@berth/spec/shim";
import type { task } from "@berth/spec/shim";
import { CODE, TtrpcError } from "@berth/ttrpc";
import { ExecProcess } from "./exec.ts";
import { runHooks } from "./hooks.ts";
import { TaskProcess } from "./process.ts";
import { rootfsOf, unmountRootfs } from "./rootfs.ts";

export interface Machine {
  readonly hand: Hand;
  readonly host: HostFacts;
  /** Compiled filters. */
  readonly cache: string;
  readonly log: (message: string) => void;
}

export interface ContainerOptions {
  readonly systemdCgroup: boolean;
  readonly noPivotRoot: boolean;
  readonly noNewKeyring: boolean;
}

const SIGKILL = 9;

export class Container extends TaskProcess {
  readonly id: string;
  readonly bundle: string;
  readonly execs = new Map<string, ExecProcess>();
  readonly spec: oci.Spec;
  readonly cgroup: string;
  /** Whether its end was a kill for memory. */
  oom = false;
  paused = false;
  readonly #machine: Machine;
  readonly #dir: string;
  readonly #unit: SystemdPlace | undefined;
  protected link: MonitorLink | undefined;
  protected session: number | undefined;

  private constructor(machine: Machine, request: task.CreateTaskRequest, dir: string, options: ContainerOptions) {
    super(request.terminal, request);
    this.#machine = machine;
    this.#dir = dir;
    this.id = request.id;
    this.bundle = request.bundle;
    this.spec = readBundle(request.bundle).spec;
    const path = this.spec.linux?.cgroupsPath ?? `/${request.id}`;
    this.#unit = options.systemdCgroup ? systemdPlace(path, request.id) : undefined;
    this.cgroup = this.#unit?.path ?? path;
  }

  /** Up to where it would run. What a failure leaves is taken back. */
  static async create(
    machine: Machine,
    request: task.CreateTaskRequest,
    dir: string,
    options: ContainerOptions,
  ): Promise<Container> {
    const container = new Container(machine, request, dir, options);
    try {
      await container.#make(request, options);
      return container;
    } catch (error) {
      await container.release();
      throw error;
    }
  }

  override get status(): taskTypes.Status {
    const status = super.status;
    return status === taskTypes.Status.RUNNING && this.paused ? taskTypes.Status.PAUSED : status;
  }

  async start(): Promise<void> {
    if (!this.link || this.session !== undefined || this.exit)
      throw new TtrpcError(CODE.failedPrecondition, `container ${this.id} is not created, it is started already`);
    const state = await this.link.start();
    this.session = 0;
    this.pid = state.pid;
    await runHooks(this.#machine, this, "poststart");
  }

  async exec(request: task.ExecProcessRequest, process: oci.Process): Promise<void> {
    if (this.execs.has(request.execId)) throw new TtrpcError(CODE.alreadyExists, `id ${request.execId} already exists`);
    this.execs.set(request.execId, new ExecProcess(this, request, process));
    await Promise.resolve();
  }

  /** Of a further process; FailedPrecondition: the container does not run. */
  async execPlan(process: oci.Process, terminal: boolean): Promise<{ plan: Plan; link: MonitorLink }> {
    if (!this.link || this.session === undefined || this.exit)
      throw new TtrpcError(CODE.failedPrecondition, `container ${this.id} does not run`);
    const { host } = this.#machine;
    const target = { pid: this.pid, spec: this.spec, cgroup: { path: this.cgroup } };
    const { plan } = planExec(target, process, { host, seccomp: await this.#seccomp(), terminal });
    return { plan, link: this.link };
  }

  /** `all`: every process of its cgroup. */
  async killAll(signal: number): Promise<void> {
    if (signal === SIGKILL && this.session !== undefined) await killCgroup(this.cgroup, this.#machine.host);
    else await this.kill(signal);
  }

  async pause(): Promise<void> {
    await freeze(this.cgroup, this.#machine.host);
    this.paused = true;
  }

  async resume(): Promise<void> {
    await thaw(this.cgroup, this.#machine.host);
    this.paused = false;
  }

  async update(resources: oci.LinuxResources): Promise<void> {
    const { hand, host } = this.#machine;
    if (this.#unit) await systemd.update(this.#unit, resources, host);
    await hand.run(updateResources(this.cgroup, resources, host));
  }

  /** Everything of it, also of one that was not made whole. */
  async release(): Promise<void> {
    const { hand, host } = this.#machine;
    if (this.link && !this.exit) await this.link.kill(0, SIGKILL);
    await killCgroup(this.cgroup, host);
    this.link?.close();
    await hand.run(cgroupRemoval(this.cgroup, host));
    if (this.#unit) await systemd.stop(this.#unit);
    await unmountRootfs(hand, this.bundle);
    await rm(this.#dir, { recursive: true, force: true });
    await runHooks(this.#machine, this, "poststop");
  }

  async #make(request: task.CreateTaskRequest, options: ContainerOptions): Promise<void> {
    const { hand, host } = this.#machine;
    await mkdir(this.#dir, { recursive: true, mode: 0o700 });
    const rootfs = await rootfsOf(hand, this.bundle, readBundle(this.bundle).rootfs, request.rootfs);
    const plan = await this.#plan(rootfs, options);
    const { pid } = await hand.monitor({
      dir: this.#dir,
      plan,
      terminal: this.terminal ? { rows: 24, columns: 80 } : undefined,
      stdin: request.stdin !== "",
      oom: oomCounter(this.cgroup, host),
    });
    this.pid = pid;
    const link = (this.link = await connectMonitor(this.#dir, plan));
    link.exited.then(
      async (state) => {
        this.oom = state.oom;
        await this.streams.drained();
        this.hasEnded({ code: state.code, at: state.finishedAt });
      },
      () => this.hasEnded({ code: UNKNOWN_CODE, at: BigInt(Date.now()) * NS_IN_MS }),
    );
    if (this.#unit) {
      const { annotations, linux } = this.spec;
      await systemd.start({ place: this.#unit, pids: [pid], host, resources: linux?.resources, annotations });
    }
    await this.streams.connect(link, 0, request, this.terminal);
  }

  async #plan(rootfs: Rootfs, { noPivotRoot, noNewKeyring }: ContainerOptions): Promise<Plan> {
    const { plan, warnings } = planContainer(this.spec, {
      id: this.id,
      rootfs,
      cgroup: { path: this.cgroup },
      host: this.#machine.host,
      seccomp: await this.#seccomp(),
      terminal: this.terminal,
      consoleSize: this.spec.process?.consoleSize,
      bundle: this.bundle,
      noPivot: noPivotRoot,
      noNewKeyring,
      checksProgram: true,
    });
    for (const warning of warnings) this.#machine.log(`container ${this.id}: ${warning}`);
    return plan;
  }

  async #seccomp() {
    return await compileSeccomp(this.spec.linux?.seccomp, this.#machine.cache);
  }
}

/** A monitor that has gone without a word. */
const UNKNOWN_CODE = 255;
const NS_IN_MS = 1_000_000n;
/** Connects when a handler asks for its driver. */
const systemd = new SystemdLink();
