/** The virtual machines of this daemon's pods, as long as it knows them: found again by their directories when it does not. */
import {
  Cache,
  DEFAULT_IMAGE_DIRECTORY,
  DEFAULT_POLICY,
  Factory,
  findMachine,
  forgetDirectVolumes,
  guardedMachine,
  MachineCounters,
  type MachineCache,
  manageMachine,
  PodPolicy,
  type PodMachine,
  removeMachine,
  removeManagement,
  sandboxesOf,
  VmError,
  type VmHost,
} from "@berth/vm";
import { cgroupOf } from "../../cgroups.ts";
import { type CriContext, machinesDir } from "../../context.ts";
import { precondition } from "../../errors.ts";
import type { Sandbox, SandboxRecord } from "../../store/records.ts";
import { stopSandbox } from "../../sandbox/stop.ts";

export interface VmOptions {
  /** Of berth-vm build-image. */
  readonly image?: string;
  /** Where pods' management sockets are, each in a directory of its pod's id; default: as Kata's clients look for them. */
  readonly sandboxes?: string;
  /** The node's policy for pods; default: Kata's path. */
  readonly policy?: string;
}

interface Known {
  /** Behind its policy. */
  readonly machine: PodMachine;
  readonly counters: MachineCounters;
  management: AsyncDisposable | undefined;
  /** Until then (performance.now) nobody asks what it has used. */
  silentUntil: number;
}

/** A guest that hangs is asked so seldom what it has used. */
const SILENCE_MS = 30_000;

/** Of the hypervisor and its helpers: in the pod's, as its containers' are. */
export const machineCgroup = (context: CriContext, record: SandboxRecord): string =>
  cgroupOf(context, record, `${record.id}-vm`).cgroupPath;

/** Of a socket's path, which has 108 bytes, a machine's id may take so many. */
const ID_LENGTH = 20;

export class Machines {
  readonly #options: VmOptions;
  readonly #known = new Map<string, Known>();
  readonly #hung = new Set<string>();
  #factory: Factory | undefined;
  #cache: MachineCache | undefined;

  constructor(options: VmOptions) {
    this.#options = options;
  }

  /** What packages/vm works with. */
  hostOf(context: CriContext): VmHost {
    return {
      hand: context.hand,
      host: context.host,
      machines: machinesDir(context),
      image: this.#options.image ?? DEFAULT_IMAGE_DIRECTORY,
      bosun: context.paths.bosun,
      factory: (this.#factory ??= new Factory(`${context.paths.root}/vm/templates`)),
      cache: (this.#cache ??= new Cache((message) => context.log.warn({}, message))),
      log: (level, message) => context.log[level]({}, message),
    };
  }

  static idOf = (sandboxId: string): string => sandboxId.slice(0, ID_LENGTH);

  /** Of a pod that is about to be made. Rejects with VmError. */
  async policyOf({ config }: SandboxRecord): Promise<PodPolicy> {
    return await PodPolicy.open({ annotations: config.annotations, file: this.#options.policy ?? DEFAULT_POLICY });
  }

  /** From now on its end is the pod's, and it can be managed. */
  async add(context: CriContext, sandbox: Sandbox, machine: PodMachine, policy: PodPolicy): Promise<void> {
    const { id } = sandbox.record;
    await policy.keepIn(machine.directory);
    const counters = new MachineCounters();
    const own = guardedMachine(machine, { policy, counters });
    const known: Known = { machine: own, counters, management: undefined, silentUntil: 0 };
    this.#known.set(id, known);
    void machine.ended.then((reason) => this.#ended(context, sandbox, known, reason));
    await this.#manage(context, sandbox.record, known, policy);
  }

  /** Its containers do not depend on it. */
  async #manage(context: CriContext, record: SandboxRecord, known: Known, policy: PodPolicy): Promise<void> {
    const { machine, counters } = known;
    try {
      known.management = await manageMachine({
        id: record.id,
        machine,
        policy,
        counters,
        cgroup: machineCgroup(context, record),
        host: context.host,
        sandboxes: this.#sandboxes(context),
        log: (level, message) => context.log[level]({}, message),
      });
    } catch (error) {
      context.log.error(
        { pod: record.id, err: error },
        "berth-vm and kata-monitor cannot reach the pod's virtual machine",
      );
    }
  }

  #sandboxes(context: CriContext): string {
    return this.#options.sandboxes ?? sandboxesOf(context.paths.state);
  }

  find(sandboxId: string): PodMachine | undefined {
    return this.#known.get(sandboxId)?.machine;
  }

  /**
   * What a guest tells of itself for a list of many, which must neither wait for one that hangs nor fail for one that talks nonsense.
   * Undefined: nothing is known.
   */
  async asked<T>(
    context: CriContext,
    sandboxId: string,
    look: (machine: PodMachine) => Promise<T | undefined>,
  ): Promise<T | undefined> {
    const known = this.#known.get(sandboxId);
    if (!known || this.#hung.has(sandboxId) || performance.now() < known.silentUntil) return undefined;
    try {
      return await look(known.machine);
    } catch (error) {
      // Its pod was stopped meanwhile.
      if (this.#known.get(sandboxId) !== known) return undefined;
      context.log.warn({ pod: sandboxId, err: error }, "the pod's guest does not tell what it has used");
      known.silentUntil = performance.now() + SILENCE_MS;
      return undefined;
    }
  }

  /** Counts how long a verb of the pod's takes, by the name that a shim has for it. */
  async timed<T>(sandboxId: string, verb: string, work: () => Promise<T>): Promise<T> {
    const counters = this.#known.get(sandboxId)?.counters;
    return counters ? await counters.verbs.time(verb, work) : await work();
  }

  /** Its guest hangs: nothing more is asked of it, and it goes with its pod. */
  giveUp(sandboxId: string): void {
    this.#hung.add(sandboxId);
  }

  /** Where a guest is that may answer. */
  findAnswering(sandboxId: string): PodMachine | undefined {
    return this.#hung.has(sandboxId) ? undefined : this.find(sandboxId);
  }

  /** FailedPrecondition where there is none any more. */
  of(sandboxId: string): PodMachine {
    const machine = this.find(sandboxId);
    if (!machine) throw precondition(`the virtual machine of pod "${sandboxId}" does not run`);
    return machine;
  }

  /** What daemons before this one have left that is no pod's. */
  async sweep(context: CriContext): Promise<void> {
    const host = this.hostOf(context);
    await host.factory?.sweep(host);
  }

  /** False: it is gone. */
  async adopt(context: CriContext, sandbox: Sandbox): Promise<boolean> {
    const host = this.hostOf(context);
    try {
      const machine = await findMachine(host, Machines.idOf(sandbox.record.id));
      if (machine) await this.add(context, sandbox, machine, await PodPolicy.found(machine.directory));
      return machine !== undefined;
    } catch (error) {
      if (!(error instanceof VmError)) throw error;
      context.log.error({ pod: sandbox.record.id, err: error }, "the pod's virtual machine cannot be reached");
      return false;
    }
  }

  /** Idempotent, and whatever of it is there. */
  async remove(context: CriContext, sandboxId: string): Promise<void> {
    const known = this.#known.get(sandboxId);
    this.#known.delete(sandboxId);
    this.#hung.delete(sandboxId);
    await known?.management?.[Symbol.asyncDispose]();
    await known?.machine.close();
    await removeManagement(this.#sandboxes(context), sandboxId);
    await removeMachine(this.hostOf(context), Machines.idOf(sandboxId));
    await forgetDirectVolumes(sandboxId);
  }

  async close(): Promise<void> {
    await Promise.all([this.#cache?.close(), this.#factory?.close()]);
    const all = [...this.#known.values()];
    this.#known.clear();
    await Promise.all(
      all.map(async ({ machine, management }) => {
        await management?.[Symbol.asyncDispose]();
        await machine.close();
      }),
    );
  }

  /** Not by anybody's order: the pod is stopped, so that it is reported dead and all of it given back. */
  async #ended(context: CriContext, sandbox: Sandbox, known: Known, reason: string): Promise<void> {
    const { id } = sandbox.record;
    if (this.#known.get(id) !== known) return;
    context.log.error({ pod: id }, `the pod's virtual machine is gone: ${reason}`);
    this.giveUp(id);
    try {
      await context.locks.with(id, undefined, () => stopSandbox(context, sandbox));
    } catch (error) {
      context.log.error(
        { pod: id, err: error },
        "could not give back all of a pod whose virtual machine is gone; StopPodSandbox tries again",
      );
    }
  }
}
