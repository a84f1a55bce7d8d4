/** The virtual machines of this daemon's pods, as long as it knows them: found again by their directories when it does not. */
import {
  DEFAULT_IMAGE_DIRECTORY,
  Factory,
  findMachine,
  type PodMachine,
  removeMachine,
  VmError,
  type VmHost,
} from "@berth/vm";
import type { CriContext } from "../../context.ts";
import { precondition } from "../../errors.ts";
import type { Sandbox } from "../../store/records.ts";
import { stopSandbox } from "../../sandbox/stop.ts";

export interface VmOptions {
  /** Of berth-vm build-image. */
  readonly image?: string;
}

/** Of a socket's path, which has 108 bytes, a machine's id may take so many. */
const ID_LENGTH = 20;

export class Machines {
  readonly #options: VmOptions;
  readonly #known = new Map<string, PodMachine>();
  readonly #hung = new Set<string>();
  #factory: Factory | undefined;

  constructor(options: VmOptions) {
    this.#options = options;
  }

  /** What packages/vm works with. */
  hostOf(context: CriContext): VmHost {
    return {
      hand: context.hand,
      host: context.host,
      machines: `${context.paths.state}/vm`,
      image: this.#options.image ?? DEFAULT_IMAGE_DIRECTORY,
      bosun: context.paths.bosun,
      factory: (this.#factory ??= new Factory(`${context.paths.root}/vm/templates`)),
      log: (level, message) => context.log[level]({}, message),
    };
  }

  static idOf = (sandboxId: string): string => sandboxId.slice(0, ID_LENGTH);

  /** From now on its end is the pod's. */
  add(context: CriContext, sandbox: Sandbox, machine: PodMachine): void {
    const { id } = sandbox.record;
    this.#known.set(id, machine);
    void machine.ended.then((reason) => this.#ended(context, sandbox, machine, reason));
  }

  find(sandboxId: string): PodMachine | undefined {
    return this.#known.get(sandboxId);
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

  /** False: it is gone. */
  async adopt(context: CriContext, sandbox: Sandbox): Promise<boolean> {
    const host = this.hostOf(context);
    await host.factory?.sweep(host);
    try {
      const machine = await findMachine(host, Machines.idOf(sandbox.record.id));
      if (machine) this.add(context, sandbox, machine);
      return machine !== undefined;
    } catch (error) {
      if (!(error instanceof VmError)) throw error;
      context.log.error({ pod: sandbox.record.id, err: error }, "the pod's virtual machine cannot be reached");
      return false;
    }
  }

  /** Idempotent, and whatever of it is there. */
  async remove(context: CriContext, sandboxId: string): Promise<void> {
    const machine = this.#known.get(sandboxId);
    this.#known.delete(sandboxId);
    this.#hung.delete(sandboxId);
    await machine?.close();
    await removeMachine(this.hostOf(context), Machines.idOf(sandboxId));
  }

  async close(): Promise<void> {
    await this.#factory?.close();
    const all = [...this.#known.values()];
    this.#known.clear();
    await Promise.all(all.map((machine) => machine.close()));
  }

  /** Not by anybody's order: the pod is stopped, so that it is reported dead and all of it given back. */
  async #ended(context: CriContext, sandbox: Sandbox, machine: PodMachine, reason: string): Promise<void> {
    const { id } = sandbox.record;
    if (this.#known.get(id) !== machine) return;
    context.log.error({ pod: id }, `the pod's virtual machine is gone: ${reason}`);
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
