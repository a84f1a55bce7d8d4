/** Containers of this host, made from their bundles by the same plans as berthd's. */
import {
  cgroupRemoval,
  compileSeccomp,
  freeze,
  killCgroup,
  oomCounter,
  systemdPlace,
  SystemdLink,
  type SystemdPlace,
  thaw,
  updateResources,
} from "@berth/kernel";
import { planContainer, planExec } from "@berth/runtime";
import type { oci } from "@berth/spec";
import { runcOptions } from "@berth/spec/shim";
import { unpackMessage } from "../any.ts";
import { runHooks } from "./hooks.ts";
import type { Machine, Maker, Making, MakingRequest, Prepared, PreparedExec } from "./making.ts";
import { rootfsOf, unmountRootfs } from "./rootfs.ts";
import { pidsOf, statsOf } from "./stats.ts";

/** Connects when a handler asks for its driver. */
const systemd = new SystemdLink();

/** `options`: of the shim's start; a container's own come with its Create. */
export function ownMaker(machine: Machine, options: runcOptions.Options | undefined): Maker {
  return {
    machine,
    making: (request) =>
      new OwnMaking(machine, request, unpackMessage(request.options, runcOptions.OptionsSchema) ?? options),
    close: () => Promise.resolve(),
  };
}

class OwnMaking implements Making {
  readonly #machine: Machine;
  readonly #request: MakingRequest;
  readonly #options: runcOptions.Options | undefined;
  readonly #unit: SystemdPlace | undefined;
  readonly #cgroup: string;
  /** As it is in fact: a restored one may be in a namespace more. */
  #spec: oci.Spec;

  constructor(machine: Machine, request: MakingRequest, options: runcOptions.Options | undefined) {
    this.#machine = machine;
    this.#request = request;
    this.#spec = request.spec;
    this.#options = options;
    const path = request.spec.linux?.cgroupsPath ?? `/${request.id}`;
    this.#unit = options?.systemdCgroup ? systemdPlace(path, request.id) : undefined;
    this.#cgroup = this.#unit?.path ?? path;
  }

  async prepare(): Promise<Prepared> {
    const { hand, host, log } = this.#machine;
    const { id, bundle, spec, rootfsPath, rootfs: mounts, terminal, checkpoint } = this.#request;
    const rootfs = await rootfsOf(hand, bundle, rootfsPath, mounts);
    const oom = oomCounter(this.#cgroup, host);
    if (checkpoint !== "") {
      const { inCriusWords, planRestored } = await import("./restore.ts");
      const plan = await planRestored(this.#machine, this.#request, rootfs, this.#cgroup);
      return { plan, oom, subreaper: true, told: (work) => inCriusWords(work, this.#request.dir) };
    }
    const { plan, warnings } = planContainer(spec, {
      id,
      rootfs,
      cgroup: { path: this.#cgroup },
      host,
      seccomp: await this.#seccomp(),
      terminal,
      consoleSize: spec.process?.consoleSize,
      bundle,
      noPivot: this.#options?.noPivotRoot ?? false,
      noNewKeyring: this.#options?.noNewKeyring ?? false,
      checksProgram: true,
    });
    for (const warning of warnings) log(`container ${id}: ${warning}`);
    return { plan, oom };
  }

  async parked(pid: number): Promise<void> {
    const { spec } = this.#request;
    if (!this.#unit) return;
    const resources = spec.linux?.resources;
    const { annotations } = spec;
    await systemd.start({ place: this.#unit, pids: [pid], host: this.#machine.host, resources, annotations });
  }

  async start(start: () => Promise<number>): Promise<void> {
    const pid = await start();
    if (this.#request.checkpoint !== "") {
      const { withTimeNamespace } = await import("@berth/runtime/criu");
      this.#spec = withTimeNamespace(this.#spec, pid);
    }
    await runHooks(this.#machine, { ...this.#request, pid }, "poststart");
  }

  async exec(pid: number, process: oci.Process): Promise<PreparedExec> {
    const target = { pid, spec: this.#spec, cgroup: { path: this.#cgroup } };
    const options = { host: this.#machine.host, seccomp: await this.#seccomp(), terminal: process.terminal === true };
    return { plan: planExec(target, process, options).plan };
  }

  async killAll(): Promise<void> {
    await killCgroup(this.#cgroup, this.#machine.host);
  }

  async pause(): Promise<void> {
    await freeze(this.#cgroup, this.#machine.host);
  }

  async resume(): Promise<void> {
    await thaw(this.#cgroup, this.#machine.host);
  }

  async update(resources: oci.LinuxResources): Promise<void> {
    const { hand, host } = this.#machine;
    if (this.#unit) await systemd.update(this.#unit, resources, host);
    await hand.run(updateResources(this.#cgroup, resources, host));
  }

  async stats() {
    return await statsOf(this.#cgroup, this.#machine.host);
  }

  async pids(): Promise<readonly number[]> {
    return await pidsOf(this.#cgroup, this.#machine.host);
  }

  async checkpoint(pid: number, path: string, options: runcOptions.CheckpointOptions | undefined): Promise<void> {
    // Loaded by those who ask: a shim's start is waited for.
    const { checkpoint } = await import("./checkpoint.ts");
    await checkpoint(this.#machine, { pid, spec: this.#request.spec, cgroup: this.#cgroup }, path, options);
  }

  async release(): Promise<void> {
    const { hand, host } = this.#machine;
    await killCgroup(this.#cgroup, host);
    await hand.run(cgroupRemoval(this.#cgroup, host));
    if (this.#unit) await systemd.stop(this.#unit);
    await unmountRootfs(hand, this.#request.bundle);
    await runHooks(this.#machine, { ...this.#request, pid: 0 }, "poststop");
  }

  async #seccomp() {
    return await compileSeccomp(this.#request.spec.linux?.seccomp, this.#machine.cache);
  }
}
