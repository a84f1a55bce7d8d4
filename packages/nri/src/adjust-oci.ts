/** What plugins have made of a container, put into its OCI configuration (as NRI's own generator does, pkg/runtime-tools/generate). */
import {
  type ContainerAdjustment,
  type Hooks,
  IOPrioClass,
  IOPrioClassSchema,
  type LinuxContainerAdjustment,
  type LinuxDevice,
  type LinuxScheduler,
  LinuxSchedulerFlagSchema,
  LinuxSchedulerPolicy,
  LinuxSchedulerPolicySchema,
  type LinuxSeccomp,
  MpolFlagSchema,
  MpolModeSchema,
} from "@berth/spec/nri";
import { oci } from "@berth/spec/oci";
import { exact, nameOf } from "./enums.ts";
import { marked, split } from "./marks.ts";
import { adjustMounts } from "./adjust-mounts.ts";
import { adjustResources } from "./adjust-resources.ts";

export interface AdjustOptions {
  /** `spec` with the devices of these names. */
  readonly injectDevices: (spec: oci.Spec, names: readonly string[]) => Promise<oci.Spec>;
  /** Rejects where what a mount is to pass on does not arrive at its source. */
  readonly checkPropagation: (source: string, propagation: "rshared" | "rslave") => Promise<void>;
  /** What of the resources this node can keep. */
  readonly checkResources: (resources: oci.LinuxResources) => oci.LinuxResources;
}

/** Rejects with what cannot be carried out, by the field's name. */
export async function adjustSpec(
  spec: oci.Spec,
  asked: ContainerAdjustment,
  options: AdjustOptions,
): Promise<oci.Spec> {
  const begun = {
    ...spec,
    annotations: adjustMap(spec.annotations, asked.annotations),
    process: adjustProcess(spec, asked),
  };
  if (asked.hooks) begun.hooks = adjustHooks(spec.hooks, asked.hooks);
  const names = asked.CDIDevices.map(({ name }) => name);
  const injected = names.length > 0 ? await options.injectDevices(begun, names) : begun;
  const linux = asked.linux ? adjustLinux(injected, asked.linux, options) : injected.linux;
  return await adjustMounts({ ...injected, linux }, asked.mounts, options.checkPropagation);
}

function adjustProcess({ process }: oci.Spec, asked: ContainerAdjustment): oci.Process | undefined {
  if (!process) return process;
  const { linux } = asked;
  return {
    ...process,
    env: adjustEnv(process.env ?? [], asked),
    ...(asked.args.length > 0 && { args: asked.args }),
    rlimits: adjustRlimits(process.rlimits ?? [], asked),
    ...(linux?.oomScoreAdj && { oomScoreAdj: Number(linux.oomScoreAdj.value) }),
    ...(linux?.ioPriority && {
      ioPriority:
        linux.ioPriority.class === IOPrioClass.IOPRIO_CLASS_NONE
          ? undefined
          : {
              class: nameOf(IOPrioClassSchema, linux.ioPriority.class) as oci.LinuxIOPriority["class"],
              priority: linux.ioPriority.priority,
            },
    }),
    ...(linux?.scheduler && { scheduler: schedulerOf(linux.scheduler) }),
  };
}

/** A variable that is there keeps its place. */
function adjustEnv(before: readonly string[], { env }: ContainerAdjustment): string[] {
  const wanted = new Map(env.map(({ key, value }) => [marked(key)[0], marked(key)[1] ? undefined : `${key}=${value}`]));
  const kept = before.flatMap((entry) => {
    const key = entry.split("=", 1)[0] ?? "";
    if (!wanted.has(key)) return [entry];
    const value = wanted.get(key);
    wanted.delete(key);
    return value === undefined ? [] : [value];
  });
  return [...kept, ...[...wanted.values()].filter((entry) => entry !== undefined)];
}

/** One of each kind, as the specification wants it. */
function adjustRlimits(before: readonly oci.Rlimit[], { rlimits }: ContainerAdjustment): oci.Rlimit[] {
  const types = new Set(rlimits.map(({ type }) => type));
  return [
    ...before.filter(({ type }) => !types.has(type)),
    ...rlimits.map(({ type, hard, soft }) => ({ type, hard: exact(hard), soft: exact(soft) })),
  ];
}

/** An empty policy: the runtime's own. */
function schedulerOf(scheduler: LinuxScheduler): oci.Scheduler | undefined {
  if (scheduler.policy === LinuxSchedulerPolicy.SCHED_NONE) return undefined;
  const { nice, priority, runtime, deadline, period } = scheduler;
  return {
    policy: nameOf(LinuxSchedulerPolicySchema, scheduler.policy),
    nice,
    priority,
    flags: scheduler.flags.map((flag) => nameOf(LinuxSchedulerFlagSchema, flag)),
    runtime: exact(runtime),
    deadline: exact(deadline),
    period: exact(period),
  };
}

function adjustHooks(before: oci.Hooks | undefined, asked: Hooks): oci.Hooks | undefined {
  const kinds = ["prestart", "createRuntime", "createContainer", "startContainer", "poststart", "poststop"] as const;
  const added = kinds.filter((kind) => asked[kind].length > 0);
  if (added.length === 0) return before;
  const hookOf = ({ path, args, env, timeout }: Hooks["prestart"][number]): oci.Hook => ({
    path,
    ...(args.length > 0 && { args }),
    ...(env.length > 0 && { env }),
    ...(timeout && { timeout: Number(timeout.value) }),
  });
  return {
    ...before,
    ...Object.fromEntries(added.map((kind) => [kind, [...(before?.[kind] ?? []), ...asked[kind].map(hookOf)]])),
  };
}

function adjustLinux(spec: oci.Spec, asked: LinuxContainerAdjustment, options: AdjustOptions): oci.Linux {
  const { linux = {} } = spec;
  const rules = asked.devices.filter(({ path }) => !marked(path)[1]).map(ruleOf);
  const resources = adjustResources(
    { ...linux.resources, devices: [...(linux.resources?.devices ?? []), ...rules] },
    asked.resources,
  );
  return {
    ...linux,
    devices: adjustDevices(linux.devices ?? [], asked.devices),
    resources: options.checkResources(resources),
    ...(asked.cgroupsPath !== "" && { cgroupsPath: asked.cgroupsPath }),
    ...(asked.seccompPolicy && { seccomp: seccompOf(asked.seccompPolicy) }),
    namespaces: adjustNamespaces(linux.namespaces ?? [], asked),
    sysctl: adjustMap(linux.sysctl, asked.sysctl),
    netDevices: adjustMap(
      linux.netDevices,
      Object.fromEntries(Object.entries(asked.netDevices).map(([host, { name }]) => [host, { name }])),
    ),
    ...(asked.memoryPolicy && {
      memoryPolicy: {
        mode: nameOf(MpolModeSchema, asked.memoryPolicy.mode),
        nodes: asked.memoryPolicy.nodes,
        flags: asked.memoryPolicy.flags.map((flag) => nameOf(MpolFlagSchema, flag)),
      },
    }),
    ...rdtOf(linux.intelRdt, asked),
  };
}

function adjustDevices(before: readonly oci.LinuxDevice[], asked: readonly LinuxDevice[]): oci.LinuxDevice[] {
  const touched = new Set(asked.map(({ path }) => marked(path)[0]));
  const added = asked.filter(({ path }) => !marked(path)[1]).map(deviceOf);
  return [...before.filter(({ path }) => !touched.has(path)), ...added];
}

const deviceOf = ({ path, type, major, minor, fileMode, uid, gid }: LinuxDevice): oci.LinuxDevice => ({
  path,
  type: type as oci.LinuxDevice["type"],
  major: Number(major),
  minor: Number(minor),
  ...(fileMode && { fileMode: fileMode.value & 0o777 }),
  ...(uid && { uid: uid.value }),
  ...(gid && { gid: gid.value }),
});

/** A block device may be made anew inside; a character device only used. */
const ruleOf = ({ type, major, minor }: LinuxDevice): oci.LinuxDeviceCgroup => ({
  allow: true,
  type,
  major: Number(major),
  minor: Number(minor),
  access: type === "b" ? "rwm" : "rw",
});

function adjustNamespaces(
  before: readonly oci.LinuxNamespace[],
  asked: LinuxContainerAdjustment,
): oci.LinuxNamespace[] {
  let namespaces = [...before];
  for (const { type: name, path } of asked.namespaces) {
    const [type, isRemoved] = marked(name);
    const known = oci.NAMESPACE_TYPES.find((one) => one === type);
    if (known === undefined) throw new Error(`linux.namespaces: "${type}" is no namespace`);
    namespaces = namespaces.filter((other) => other.type !== type);
    if (!isRemoved) namespaces.push({ type: known, ...(path !== "" && { path }) });
  }
  return namespaces;
}

function seccompOf(policy: LinuxSeccomp): oci.LinuxSeccomp {
  return {
    defaultAction: policy.defaultAction as oci.SeccompAction,
    ...(policy.defaultErrno && { defaultErrnoRet: policy.defaultErrno.value }),
    ...(policy.architectures.length > 0 && { architectures: policy.architectures }),
    ...(policy.flags.length > 0 && { flags: policy.flags }),
    ...(policy.listenerPath !== "" && { listenerPath: policy.listenerPath }),
    ...(policy.listenerMetadata !== "" && { listenerMetadata: policy.listenerMetadata }),
    syscalls: policy.syscalls.map(({ names, action, errnoRet, args }) => ({
      names,
      action: action as oci.SeccompAction,
      ...(errnoRet && { errnoRet: errnoRet.value }),
      ...(args.length > 0 && {
        args: args.map(({ index, value, valueTwo, op }) => ({
          index,
          value: exact(value),
          valueTwo: exact(valueTwo),
          op: op as oci.SeccompOperator,
        })),
      }),
    })),
  };
}

function rdtOf(
  before: oci.LinuxIntelRdt | undefined,
  { rdt, resources }: LinuxContainerAdjustment,
): Partial<oci.Linux> {
  const named = resources?.rdtClass;
  if (!rdt && !named) return {};
  let now = before;
  if (named) now = named.value === "" ? undefined : { closID: named.value };
  if (!rdt) return { intelRdt: now };
  if (rdt.remove) now = undefined;
  const { closId, schemata, enableMonitoring } = rdt;
  if (!closId && !schemata && !enableMonitoring) return { intelRdt: now };
  return {
    intelRdt: {
      ...now,
      ...(closId && { closID: closId.value }),
      ...(schemata && { schemata: schemata.value }),
      ...(enableMonitoring && { enableMonitoring: enableMonitoring.value }),
    },
  };
}

/** Removed first, so that what is set anew stays. */
function adjustMap<V>(
  before: Readonly<Record<string, V>> | undefined,
  asked: Readonly<Record<string, V>>,
): Record<string, V> | undefined {
  const { removed, set } = split(asked);
  if (removed.length + set.length === 0) return before;
  const kept = Object.entries(before ?? {}).filter(([key]) => !removed.includes(key));
  return Object.fromEntries([...kept, ...set]);
}
