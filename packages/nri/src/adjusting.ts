/**
 * A container's adjustments, plugin by plugin: each sees the container as those before it have adjusted it, what one has set no other may
 * set too unless it removes it first, and all together become one adjustment.
 */
import { create } from "@bufbuild/protobuf";
import {
  type Container,
  type ContainerAdjustment,
  ContainerAdjustmentSchema,
  Field,
  HooksSchema,
  type LinuxContainer,
  type LinuxContainerAdjustment,
  LinuxContainerAdjustmentSchema,
  LinuxContainerSchema,
  LinuxRdtSchema,
  LinuxResourcesSchema,
} from "@berth/spec/nri";
import { marked, removal, split } from "./marks.ts";
import type { Owners } from "./owners.ts";
import { mergeResources } from "./resources.ts";

const HOOKS = ["prestart", "createRuntime", "createContainer", "startContainer", "poststart", "poststop"] as const;

/** Fields of which a plugin sets the whole. */
const WHOLE = {
  oomScoreAdj: Field.OomScoreAdj,
  ioPriority: Field.IoPriority,
  seccompPolicy: Field.SeccompPolicy,
  scheduler: Field.LinuxSched,
} as const satisfies Partial<Record<keyof LinuxContainer & keyof LinuxContainerAdjustment, Field>>;

export class Adjusting {
  /** As the next plugin is to see it. */
  readonly container: Container;
  readonly adjustment: ContainerAdjustment = create(ContainerAdjustmentSchema, {
    hooks: {},
    linux: { resources: { memory: {}, cpu: {} } },
  });
  readonly #owners: Owners;

  constructor(container: Container, owners: Owners) {
    this.container = container;
    this.#owners = owners;
  }

  /** Throws Conflict. */
  add(plugin: string, asked: ContainerAdjustment): void {
    const { container, adjustment } = this;
    this.#map(plugin, Field.Annotations, asked.annotations, container.annotations, adjustment.annotations, "");
    this.#mounts(plugin, asked);
    this.#env(plugin, asked);
    this.#args(plugin, asked.args);
    this.#hooks(plugin, asked);
    if (asked.linux) this.#linux(plugin, asked.linux);
    for (const limit of asked.rlimits) {
      this.#claimEntry(Field.Rlimits, limit.type, plugin);
      container.rlimits.push(limit);
      adjustment.rlimits.push(limit);
    }
    for (const device of asked.CDIDevices) {
      this.#claimEntry(Field.CdiDevices, device.name, plugin);
      adjustment.CDIDevices.push(device);
    }
  }

  #linux(plugin: string, asked: LinuxContainerAdjustment): void {
    const { id } = this.container;
    const container = (this.container.linux ??= create(LinuxContainerSchema));
    const adjustment = (this.adjustment.linux ??= create(LinuxContainerAdjustmentSchema));
    this.#devices(plugin, asked, container, adjustment);
    if (asked.resources) {
      const targets = [container, adjustment].map((target) => (target.resources ??= create(LinuxResourcesSchema)));
      mergeResources(this.#owners, id, plugin, asked.resources, targets);
    }
    if (asked.cgroupsPath !== "") {
      this.#claim(Field.CgroupsPath, plugin);
      container.cgroupsPath = adjustment.cgroupsPath = asked.cgroupsPath;
    }
    for (const [name, field] of Object.entries(WHOLE) as [keyof typeof WHOLE, Field][]) {
      if (asked[name] === undefined) continue;
      this.#claim(field, plugin);
      Object.assign(container, { [name]: asked[name] });
      Object.assign(adjustment, { [name]: asked[name] });
    }
    this.#namespaces(plugin, asked, container, adjustment);
    this.#map(plugin, Field.Sysctl, asked.sysctl, container.sysctl, adjustment.sysctl, "");
    this.#map(plugin, Field.LinuxNetDevices, asked.netDevices, container.netDevices, adjustment.netDevices, {
      $typeName: "nri.pkg.api.v1alpha1.LinuxNetDevice",
      name: "",
    });
    this.#rdt(plugin, asked, adjustment);
    if (asked.memoryPolicy) {
      this.#claim(Field.MemoryPolicy, plugin);
      adjustment.memoryPolicy = asked.memoryPolicy;
    }
  }

  /** `none`: what stands for a value beside a key that is removed. */
  #map<V>(
    plugin: string,
    field: Field,
    asked: Record<string, V>,
    seen: Record<string, V>,
    all: Record<string, V>,
    none: V,
  ): void {
    const { removed, set } = split(asked);
    for (const key of removed) {
      this.#owners.clearEntry(this.container.id, field, key, plugin);
      delete seen[key];
      delete all[key];
      all[removal(key)] = none;
    }
    for (const [key, value] of set) {
      this.#claimEntry(field, key, plugin);
      seen[key] = value;
      all[key] = value;
    }
  }

  #mounts(plugin: string, { mounts }: ContainerAdjustment): void {
    const removed = new Set(
      mounts.flatMap(({ destination }) => (marked(destination)[1] ? [marked(destination)[0]] : [])),
    );
    const added = mounts.filter(({ destination }) => !marked(destination)[1]);
    const set = new Set(added.map(({ destination }) => destination));
    for (const { destination } of this.adjustment.mounts)
      if (removed.has(destination)) this.#owners.clearEntry(this.container.id, Field.Mounts, destination, plugin);
    this.adjustment.mounts = this.adjustment.mounts.filter(({ destination }) => !removed.has(destination));
    this.container.mounts = this.container.mounts.filter(
      ({ destination }) => !removed.has(destination) && !set.has(destination),
    );
    for (const mount of added) this.#claimEntry(Field.Mounts, mount.destination, plugin);
    this.adjustment.mounts.push(
      ...added,
      ...mounts.filter(({ destination }) => marked(destination)[1] && !set.has(marked(destination)[0])),
    );
    this.container.mounts.push(...added);
  }

  #devices(
    plugin: string,
    { devices }: LinuxContainerAdjustment,
    seen: LinuxContainer,
    all: LinuxContainerAdjustment,
  ): void {
    const removed = new Set(devices.flatMap(({ path }) => (marked(path)[1] ? [marked(path)[0]] : [])));
    const added = devices.filter(({ path }) => !marked(path)[1]);
    const set = new Set(added.map(({ path }) => path));
    for (const { path } of all.devices)
      if (removed.has(path)) this.#owners.clearEntry(this.container.id, Field.Devices, path, plugin);
    all.devices = all.devices.filter(({ path }) => !removed.has(path));
    seen.devices = seen.devices.filter(({ path }) => !removed.has(path) && !set.has(path));
    for (const device of added) this.#claimEntry(Field.Devices, device.path, plugin);
    all.devices.push(...devices.filter(({ path }) => !set.has(marked(path)[0]) || !marked(path)[1]));
    seen.devices.push(...added);
  }

  #env(plugin: string, { env }: ContainerAdjustment): void {
    const removed = new Set(env.flatMap(({ key }) => (marked(key)[1] ? [marked(key)[0]] : [])));
    const added = env.filter(({ key }) => !marked(key)[1]);
    const touched = new Set([...removed, ...added.map(({ key }) => key)]);
    for (const { key } of this.adjustment.env)
      if (removed.has(key)) this.#owners.clearEntry(this.container.id, Field.Env, key, plugin);
    this.adjustment.env = this.adjustment.env.filter(({ key }) => !removed.has(key));
    this.container.env = this.container.env.filter((entry) => !touched.has(entry.split("=", 1)[0] ?? ""));
    for (const { key } of added) this.#claimEntry(Field.Env, key, plugin);
    const set = new Set(added.map(({ key }) => key));
    this.adjustment.env.push(...env.filter(({ key }) => !marked(key)[1] || !set.has(marked(key)[0])));
    this.container.env.push(...added.map(({ key, value }) => `${key}=${value}`));
  }

  #args(plugin: string, asked: readonly string[]): void {
    if (asked.length === 0) return;
    const isReplaced = asked[0] === "";
    if (isReplaced) this.#owners.clear(this.container.id, Field.Args, plugin);
    this.#claim(Field.Args, plugin);
    this.adjustment.args = asked.slice(isReplaced ? 1 : 0);
    this.container.args = [...this.adjustment.args];
  }

  /** Several plugins may add hooks. */
  #hooks(plugin: string, { hooks }: ContainerAdjustment): void {
    if (!hooks || HOOKS.every((kind) => hooks[kind].length === 0)) return;
    for (const target of [this.container, this.adjustment]) {
      target.hooks ??= create(HooksSchema);
      for (const kind of HOOKS) target.hooks[kind].push(...hooks[kind]);
    }
    this.#owners.join(this.container.id, Field.OciHooks, plugin);
  }

  #namespaces(
    plugin: string,
    { namespaces }: LinuxContainerAdjustment,
    seen: LinuxContainer,
    all: LinuxContainerAdjustment,
  ): void {
    for (const namespace of namespaces) {
      const [type, isRemoved] = marked(namespace.type);
      this.#claimEntry(Field.Namespace, type, plugin);
      seen.namespaces = [...seen.namespaces.filter((other) => other.type !== type), ...(isRemoved ? [] : [namespace])];
      all.namespaces.push(namespace);
    }
  }

  #rdt(plugin: string, { rdt }: LinuxContainerAdjustment, all: LinuxContainerAdjustment): void {
    if (!rdt) return;
    const fields = {
      closId: Field.RdtClosID,
      schemata: Field.RdtSchemata,
      enableMonitoring: Field.RdtEnableMonitoring,
    } as const;
    if (rdt.remove) {
      for (const field of Object.values(fields)) this.#owners.clear(this.container.id, field, plugin);
      all.rdt = create(LinuxRdtSchema, { remove: true });
    }
    for (const [name, field] of Object.entries(fields) as [keyof typeof fields, Field][]) {
      if (rdt[name] === undefined) continue;
      this.#claim(field, plugin);
      all.rdt ??= create(LinuxRdtSchema);
      Object.assign(all.rdt, { [name]: rdt[name] });
    }
  }

  #claim(field: Field, plugin: string): void {
    this.#owners.claim(this.container.id, field, plugin);
  }

  #claimEntry(field: Field, entry: string, plugin: string): void {
    this.#owners.claimEntry(this.container.id, field, entry, plugin);
  }
}
