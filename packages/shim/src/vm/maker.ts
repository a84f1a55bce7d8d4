/** Containers in a virtual machine, one machine for all of this shim's. */
import { cgroupRemoval, CLONE, killCgroup, type Order, type Plan } from "@berth/kernel";
import { cgroupCreation } from "@berth/runtime";
import type { oci } from "@berth/spec";
import { CODE, TtrpcError } from "@berth/ttrpc";
import {
  type PodMachine,
  releaseStorage,
  shareContainer,
  sizeMachine,
  standInOom,
  standInPlan,
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
import { bootMachine, dropMachine, vmHostOf } from "./machine.ts";

/** How long after its exit output of a further process is awaited that a grandchild may still hold open. */
const DRAIN_MS = 2_000;

export const cgroupOf = ({ linux }: oci.Spec, id: string): string => linux?.cgroupsPath ?? `/${id}`;

/** The machine that all containers of a shim share. */
export class VmMaker implements Maker {
  readonly machine: Machine;
  readonly vm: VmHost;
  readonly #id: string;
  readonly #options: Any | undefined;
  #booted: Promise<PodMachine> | undefined;
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

  /** The machine; booted for what may have one of its own. */
  async machineFor({ id, spec, options }: MakingRequest): Promise<PodMachine> {
    if (this.#booted) return await this.#booted;
    if (roleOf(spec) === "container")
      throw new TtrpcError(CODE.failedPrecondition, `container ${id}: its pod has no virtual machine (any more)`);
    this.#owner = id;
    const asked = { id: this.#id, spec, cgroup: cgroupOf(spec, id), options: options ?? this.#options };
    const booted = (this.#booted = inVmsWords(() => bootMachine(this.vm, asked)));
    const machine = await booted;
    void machine.ended.then((reason) => {
      if (this.#booted === booted) this.machine.log(`the virtual machine is gone: ${reason}`);
    });
    return machine;
  }

  /** Undefined: there is none, or none that could be booted. */
  async found(): Promise<PodMachine | undefined> {
    return await this.#booted?.catch(() => undefined);
  }

  /** It has what its containers may use; `change` is about to hold for one. */
  async fit(machine: PodMachine, id: string, change: oci.LinuxResources): Promise<void> {
    this.#resources.set(id, merged(this.#resources.get(id), change));
    await inVmsWords(() => sizeMachine(machine, [...this.#resources.values()].map(limitsOf)));
  }

  /** The machine goes with the container that it was booted for. */
  async released(id: string): Promise<void> {
    this.#resources.delete(id);
    if (this.#owner !== id) return;
    const machine = await this.found();
    this.#booted = undefined;
    this.#owner = undefined;
    await machine?.close();
    await dropMachine(this.vm, this.#id);
  }

  async close(): Promise<void> {
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
    const machine = await this.#maker.machineFor(this.#request);
    await this.#maker.fit(machine, id, spec.linux?.resources ?? {});
    const rootfs = await rootfsOf(hand, bundle, rootfsPath, mounts);
    const warn = (message: string): void => log(`container ${id}: ${message}`);
    const guests = await inVmsWords(async () => {
      const own = await withGuestsPids(machine, withinMachine(spec));
      const shared = { id, spec: own, rootfs, shm: shmOf(spec), warn };
      return await shareContainer({ hand, host }, machine, shared);
    });
    const container = { id, spec: guests, terminal, stdin, directory: dir, seccompCache: cache, warn };
    const last = await inVmsWords(() => machine.runtime.create(container));
    const cgroup = cgroupCreation(this.#cgroup, host);
    return { plan: inOwnNetwork(standInPlan(last, { terminal, cgroup, parks: true })), oom: standInOom(dir) };
  }

  parked(pid: number): Promise<void> {
    this.#pid = pid;
    return Promise.resolve();
  }

  started(): Promise<void> {
    return Promise.resolve();
  }

  async exec(_pid: number, process: oci.Process): Promise<PreparedExec> {
    const { id, dir: directory } = this.#request;
    const { cache: seccompCache } = this.#maker.machine;
    const { runtime } = await this.#machine();
    const asked = { id, process, directory, seccompCache, drainMs: DRAIN_MS };
    const call = await inVmsWords(() => runtime.exec(asked));
    const plan = standInPlan(call.last, { terminal: process.terminal === true, parks: false });
    return { plan, told: (work) => call.told(work), dispose: () => Promise.resolve(call[Symbol.asyncDispose]()) };
  }

  async killAll(): Promise<void> {
    await (await this.#machine()).runtime.kill(this.#request.id);
  }

  async signal(signal: number): Promise<void> {
    await (await this.#machine()).runtime.signal(this.#request.id, signal);
  }

  async pause(): Promise<void> {
    await (await this.#machine()).runtime.pause(this.#request.id);
  }

  async resume(): Promise<void> {
    await (await this.#machine()).runtime.resume(this.#request.id);
  }

  async update(resources: oci.LinuxResources): Promise<void> {
    const machine = await this.#machine();
    await this.#maker.fit(machine, this.#request.id, resources);
    await machine.runtime.update(this.#request.id, resources);
  }

  async stats(): Promise<Any> {
    const { id, dir } = this.#request;
    const stats = await (await this.#machine()).runtime.stats(id, dir);
    if (!stats) throw new TtrpcError(CODE.notFound, `container ${id} has ended`);
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
    const { id, bundle } = this.#request;
    const { hand, host, log } = this.#maker.machine;
    const machine = await this.#maker.found();
    if (machine) {
      // What cannot be given back there goes with the machine.
      await machine.runtime
        .release(id)
        .then(() => releaseStorage(machine, id))
        .catch((error: Error) => log(`container ${id}: ${error.message}`));
      await unshareContainer(hand, machine, id);
    }
    await this.#maker.released(id);
    await killCgroup(this.#cgroup, host);
    await hand.run(cgroupRemoval(this.#cgroup, host));
    await unmountRootfs(hand, bundle);
  }

  async #machine(): Promise<PodMachine> {
    const machine = await this.#maker.found();
    if (!machine) throw new TtrpcError(CODE.notFound, `container ${this.#request.id}: its virtual machine is gone`);
    return machine;
  }
}

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

/** Who asks for the network of a container's process (as `ctr run --cni` does) is not to find the node's. */
function inOwnNetwork({ orders }: Plan): Plan {
  const isolated = (order: Order): Order =>
    order.order === "clone" ? { ...order, args: { ...order.args, flags: order.args.flags | CLONE.NEWNET } } : order;
  return { orders: orders.map(isolated) };
}
