/** Containers in a virtual machine, one machine for all of this shim's. */
import { cgroupRemoval, killCgroup } from "@berth/kernel";
import { cgroupCreation } from "@berth/runtime";
import type { oci } from "@berth/spec";
import { CODE, TtrpcError } from "@berth/ttrpc";
import {
  MachineCounters,
  plugDevices,
  type PodMachine,
  refreshNetwork,
  releaseStorage,
  shareContainer,
  sizeMachine,
  standInOom,
  standInPlan,
  unplugDevices,
  unshareContainer,
  type VmHost,
} from "@berth/vm";
import type { Any } from "@bufbuild/protobuf/wkt";
import type { Machine, Maker, Making, MakingRequest, Prepared, PreparedExec } from "../server/making.ts";
import { rootfsOf, unmountRootfs } from "../server/rootfs.ts";
import { packStats } from "../server/stats.ts";
import { roleOf } from "./annotations.ts";
import { inVmsWords } from "./errors.ts";
import { limitsOf, merged } from "./limits.ts";
import { type Booted, bootMachine, dropMachine, vmHostOf } from "./machine.ts";

/** How long after its exit output of a further process is awaited that a grandchild may still hold open. */
const DRAIN_MS = 2_000;

export const cgroupOf = ({ linux }: oci.Spec, id: string): string => linux?.cgroupsPath ?? `/${id}`;

/** The machine that all containers of a shim share. */
export class VmMaker implements Maker {
  readonly machine: Machine;
  readonly vm: VmHost;
  readonly #id: string;
  readonly #options: Any | undefined;
  readonly #counters = new MachineCounters();
  #booted: Promise<Booted> | undefined;
  readonly #resources = new Map<string, oci.LinuxResources | undefined>();
  #owner: string | undefined;

  /** `id`: of its machine. `options`: of the shim's start. */
  constructor(machine: Machine, id: string, options: Any | undefined) {
    this.machine = machine;
    this.vm = vmHostOf(machine);
    this.#id = id;
    this.#options = options;
  }

  making(request: MakingRequest): Making {
    return new VmMaking(this, request);
  }

  observe(milliseconds: number, verb: string): void {
    this.#counters.verbs.observe(milliseconds, verb);
  }

  /** The machine; booted for what may have one of its own. */
  async machineFor({ id, spec, options }: MakingRequest): Promise<Booted> {
    if (this.#booted) return await this.#booted;
    if (roleOf(spec) === "container")
      throw new TtrpcError(CODE.failedPrecondition, `container ${id}: its pod has no virtual machine (any more)`);
    this.#owner = id;
    const asked = {
      id: this.#id,
      pod: id,
      spec,
      cgroup: cgroupOf(spec, id),
      options: options ?? this.#options,
      counters: this.#counters,
    };
    const booting = (this.#booted = inVmsWords(() => bootMachine(this.vm, asked)));
    const booted = await booting;
    void booted.machine.ended.then((reason) => {
      if (this.#booted === booting) this.machine.log(`the virtual machine is gone: ${reason}`);
    });
    return booted;
  }

  /** Undefined: there is none, or none that could be booted. */
  async found(): Promise<Booted | undefined> {
    return await this.#booted?.catch(() => undefined);
  }

  /** It has what its containers may use; `change` is about to hold for one. */
  async fit(machine: PodMachine, id: string, change: oci.LinuxResources): Promise<void> {
    this.#resources.set(id, merged(this.#resources.get(id), change));
    await inVmsWords(() => sizeMachine(machine, [...this.#resources.values()].map(limitsOf)));
  }

  /** Without what a container could use that is gone. */
  async shrink(machine: PodMachine, id: string): Promise<void> {
    this.#resources.delete(id);
    if (this.#owner !== id) await sizeMachine(machine, [...this.#resources.values()].map(limitsOf));
  }

  /** The machine goes with the container that it was booted for. */
  async released(id: string): Promise<void> {
    this.#resources.delete(id);
    if (this.#owner !== id) return;
    const booted = await this.found();
    this.#booted = undefined;
    this.#owner = undefined;
    await booted?.close();
    await dropMachine(this.vm, this.#id, id);
    // The shim is told to end next: a template that is not made by now is another's to make.
    await this.vm.factory?.close();
  }

  async close(): Promise<void> {
    await this.vm.factory?.close();
    await (await this.found())?.close();
  }
}

class VmMaking implements Making {
  readonly #maker: VmMaker;
  readonly #request: MakingRequest;
  readonly #cgroup: string;
  #pid = 0;

  constructor(maker: VmMaker, request: MakingRequest) {
    this.#maker = maker;
    this.#request = request;
    this.#cgroup = cgroupOf(request.spec, request.id);
  }

  async prepare(): Promise<Prepared> {
    const { id, bundle, spec, rootfsPath, rootfs: mounts, terminal, stdin, dir, checkpoint } = this.#request;
    if (checkpoint !== "")
      throw new TtrpcError(CODE.unimplemented, "a container in a virtual machine cannot be restored from a checkpoint");
    const { hand, host, cache, log } = this.#maker.machine;
    const { machine, netns } = await this.#maker.machineFor(this.#request);
    await this.#maker.fit(machine, id, spec.linux?.resources ?? {});
    const rootfs = await rootfsOf(hand, bundle, rootfsPath, mounts);
    const warn = (message: string): void => log(`container ${id}: ${message}`);
    const last = await inVmsWords(async () => {
      const plugged = await plugDevices(machine, spec);
      const own = await withGuestsPids(machine, withinMachine(plugged));
      const guests = await shareContainer({ hand, host }, machine, { id, spec: own, rootfs, shm: shmOf(spec), warn });
      const container = { id, spec: guests, terminal, stdin, directory: dir, seccompCache: cache, warn };
      return await machine.runtime.create(container);
    });
    const cgroup = cgroupCreation(this.#cgroup, host);
    return { plan: standInPlan(last, { terminal, cgroup, netns, parks: true }), oom: standInOom(dir) };
  }

  parked(pid: number): Promise<void> {
    this.#pid = pid;
    return Promise.resolve();
  }

  /** By now CNI has been called for whom it is called for once there is a process. */
  async start(start: () => Promise<number>): Promise<void> {
    const { hand } = this.#maker.machine;
    const { machine, netns } = await this.#booted();
    await inVmsWords(() => refreshNetwork(hand, machine, netns));
    await machine.runtime.told(this.#request.id, start());
  }

  async exec(_pid: number, process: oci.Process): Promise<PreparedExec> {
    const { id, dir: directory } = this.#request;
    const { cache: seccompCache } = this.#maker.machine;
    const asked = { id, process, directory, seccompCache, drainMs: DRAIN_MS };
    const call = await this.#asked(({ runtime }) => runtime.exec(asked));
    const plan = standInPlan(call.last, { terminal: process.terminal === true, parks: false });
    return { plan, told: (work) => call.told(work), dispose: () => Promise.resolve(call[Symbol.asyncDispose]()) };
  }

  async killAll(): Promise<void> {
    await this.#asked(({ runtime }) => runtime.kill(this.#request.id));
  }

  async signal(signal: number): Promise<void> {
    await this.#asked(({ runtime }) => runtime.signal(this.#request.id, signal));
  }

  async pause(): Promise<void> {
    await this.#asked(({ runtime }) => runtime.pause(this.#request.id));
  }

  async resume(): Promise<void> {
    await this.#asked(({ runtime }) => runtime.resume(this.#request.id));
  }

  async update(resources: oci.LinuxResources): Promise<void> {
    const { id } = this.#request;
    await this.#asked(async (machine) => {
      await this.#maker.fit(machine, id, resources);
      await machine.runtime.update(id, resources);
    });
  }

  async stats(): Promise<Any> {
    const { id, dir } = this.#request;
    const stats = await this.#asked(({ runtime }) => runtime.stats(id, dir));
    if (!stats)
      throw new TtrpcError(CODE.notFound, `container ${id} has ended, or its policy does not let it be measured`);
    return packStats(stats);
  }

  /** Those of the guest have no number here. */
  pids(): Promise<readonly number[]> {
    return Promise.resolve(this.#pid === 0 ? [] : [this.#pid]);
  }

  checkpoint(): Promise<void> {
    throw new TtrpcError(CODE.unimplemented, "a container in a virtual machine cannot be checkpointed");
  }

  async release(): Promise<void> {
    const { id, bundle, spec } = this.#request;
    const { hand, host, log } = this.#maker.machine;
    const machine = (await this.#maker.found())?.machine;
    if (machine) {
      // What cannot be given back there goes with the machine.
      await machine.runtime
        .release(id)
        .then(() => releaseStorage(machine, id))
        .then(() => unplugDevices(machine, devicesOf(spec)))
        .then(() => this.#maker.shrink(machine, id))
        .catch((error: Error) => log(`container ${id}: ${error.message}`));
      await unshareContainer(hand, machine, id);
    }
    await this.#maker.released(id);
    await killCgroup(this.#cgroup, host);
    await hand.run(cgroupRemoval(this.#cgroup, host));
    await unmountRootfs(hand, bundle);
  }

  async #asked<T>(work: (machine: PodMachine) => Promise<T>): Promise<T> {
    const { machine } = await this.#booted();
    return await inVmsWords(() => work(machine));
  }

  async #booted(): Promise<Booted> {
    const booted = await this.#maker.found();
    if (!booted) throw new TtrpcError(CODE.notFound, `container ${this.#request.id}: its virtual machine is gone`);
    return booted;
  }
}

const devicesOf = ({ linux }: oci.Spec): string[] => (linux?.devices ?? []).map(({ path }) => path);

/** What containerd mounts there on the host is the machine's own in it. */
const shmOf = ({ mounts = [] }: oci.Spec): string =>
  mounts.find(({ destination }) => destination === "/dev/shm")?.source ?? "";

/** Without what the machine has been given for all of its containers. */
function withinMachine(asked: oci.Spec): oci.Spec {
  const { hostname: _, domainname: __, linux, ...spec } = asked;
  const { sysctl: ___, ...own } = linux ?? {};
  return { ...spec, linux: own };
}

/**
 * A PID namespace by path is the host's name for that of the pod's sandbox container, or of another of its containers: in the guest
 * those that share one have a reaping init of their own.
 */
async function withGuestsPids({ runtime }: PodMachine, spec: oci.Spec): Promise<oci.Spec> {
  const { namespaces = [] } = spec.linux ?? {};
  if (!namespaces.some(({ type, path }) => type === "pid" && path)) return spec;
  const { pid } = (await runtime.findInit()) ?? (await runtime.startInit());
  const own = namespaces.map((one) => (one.type === "pid" && one.path ? { ...one, path: `/proc/${pid}/ns/pid` } : one));
  return { ...spec, linux: { ...spec.linux, namespaces: own } };
}
