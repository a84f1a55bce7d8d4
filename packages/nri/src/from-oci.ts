/** An OCI configuration in NRI's words: what plugins are shown of a container. */
import type { MessageInitShape } from "@bufbuild/protobuf";
import {
  type ContainerSchema,
  type HooksSchema,
  IOPrioClassSchema,
  type LinuxContainerSchema,
  type LinuxResourcesSchema,
  LinuxSchedulerFlagSchema,
  LinuxSchedulerPolicySchema,
  type LinuxSeccompSchema,
} from "@berth/spec/nri";
import type { oci } from "@berth/spec/oci";
import { numberOf } from "./enums.ts";

type ContainerInit = Exclude<MessageInitShape<typeof ContainerSchema>, { $typeName: string }>;
type LinuxInit = Exclude<MessageInitShape<typeof LinuxContainerSchema>, { $typeName: string }>;
type ResourcesInit = MessageInitShape<typeof LinuxResourcesSchema>;

const optional = <T, V>(value: T | undefined, make: (value: T) => V): { value: V } | undefined =>
  value === undefined ? undefined : { value: make(value) };
const wide = (value: number | undefined): { value: bigint } | undefined => optional(value, BigInt);
const same = <T>(value: T | undefined): { value: T } | undefined => optional(value, (one) => one);

/** All that the configuration says; names, states and times are the caller's to add. */
export function containerOf(spec: oci.Spec): ContainerInit {
  const { process } = spec;
  return {
    annotations: { ...spec.annotations },
    args: [...(process?.args ?? [])],
    env: [...(process?.env ?? [])],
    mounts: (spec.mounts ?? []).map(({ destination, type = "", source = "", options = [] }) => ({
      destination,
      type,
      source,
      options: [...options],
    })),
    ...(spec.hooks && { hooks: hooksOf(spec.hooks) }),
    rlimits: (process?.rlimits ?? []).map(({ type, hard, soft }) => ({ type, hard: BigInt(hard), soft: BigInt(soft) })),
    ...(process && {
      user: {
        uid: process.user.uid,
        gid: process.user.gid,
        additionalGids: [...(process.user.additionalGids ?? [])],
      },
    }),
    linux: linuxOf(spec),
  };
}

function hooksOf(hooks: oci.Hooks): MessageInitShape<typeof HooksSchema> {
  const list = (of: readonly oci.Hook[] | undefined) =>
    (of ?? []).map(({ path, args = [], env = [], timeout }) => ({
      path,
      args: [...args],
      env: [...env],
      timeout: wide(timeout),
    }));
  return {
    prestart: list(hooks.prestart),
    createRuntime: list(hooks.createRuntime),
    createContainer: list(hooks.createContainer),
    startContainer: list(hooks.startContainer),
    poststart: list(hooks.poststart),
    poststop: list(hooks.poststop),
  };
}

function linuxOf({ process, linux }: oci.Spec): LinuxInit {
  const { ioPriority, scheduler } = process ?? {};
  return {
    namespaces: (linux?.namespaces ?? []).map(({ type, path = "" }) => ({ type, path })),
    devices: (linux?.devices ?? []).map(({ path, type, major = 0, minor = 0, fileMode, uid, gid }) => ({
      path,
      type,
      major: BigInt(major),
      minor: BigInt(minor),
      fileMode: same(fileMode),
      uid: same(uid),
      gid: same(gid),
    })),
    resources: resourcesOf(linux?.resources ?? {}),
    oomScoreAdj: wide(process?.oomScoreAdj),
    cgroupsPath: linux?.cgroupsPath ?? "",
    ...(ioPriority && {
      ioPriority: { class: numberOf(IOPrioClassSchema, ioPriority.class), priority: ioPriority.priority },
    }),
    ...(linux?.seccomp && { seccompPolicy: seccompOf(linux.seccomp) }),
    sysctl: { ...linux?.sysctl },
    netDevices: Object.fromEntries(
      Object.entries(linux?.netDevices ?? {}).map(([host, { name = "" }]) => [host, { name }]),
    ),
    ...(scheduler && {
      scheduler: {
        policy: numberOf(LinuxSchedulerPolicySchema, scheduler.policy),
        nice: scheduler.nice ?? 0,
        priority: scheduler.priority ?? 0,
        flags: (scheduler.flags ?? []).map((flag) => numberOf(LinuxSchedulerFlagSchema, flag)),
        runtime: BigInt(scheduler.runtime ?? 0),
        deadline: BigInt(scheduler.deadline ?? 0),
        period: BigInt(scheduler.period ?? 0),
      },
    }),
    ...(linux?.intelRdt && {
      rdt: {
        closId: same(linux.intelRdt.closID),
        schemata: optional(linux.intelRdt.schemata, (schemata) => [...schemata]),
        enableMonitoring: same(linux.intelRdt.enableMonitoring),
      },
    }),
  };
}

export function resourcesOf(resources: oci.LinuxResources): ResourcesInit {
  const { memory, cpu, pids } = resources;
  return {
    ...(memory && {
      memory: {
        limit: wide(memory.limit),
        reservation: wide(memory.reservation),
        swap: wide(memory.swap),
        kernel: wide(memory.kernel),
        kernelTcp: wide(memory.kernelTCP),
        swappiness: wide(memory.swappiness),
        disableOomKiller: same(memory.disableOOMKiller),
        useHierarchy: same(memory.useHierarchy),
      },
    }),
    ...(cpu && {
      cpu: {
        shares: wide(cpu.shares),
        quota: wide(cpu.quota),
        period: wide(cpu.period),
        realtimeRuntime: wide(cpu.realtimeRuntime),
        realtimePeriod: wide(cpu.realtimePeriod),
        cpus: cpu.cpus ?? "",
        mems: cpu.mems ?? "",
      },
    }),
    hugepageLimits: (resources.hugepageLimits ?? []).map(({ pageSize, limit }) => ({ pageSize, limit: BigInt(limit) })),
    unified: { ...resources.unified },
    devices: (resources.devices ?? []).map(({ allow, type = "", major, minor, access = "" }) => ({
      allow,
      type,
      major: wide(major),
      minor: wide(minor),
      access,
    })),
    ...(pids && { pids: { limit: BigInt(pids.limit ?? 0) } }),
  };
}

function seccompOf(seccomp: oci.LinuxSeccomp): MessageInitShape<typeof LinuxSeccompSchema> {
  return {
    defaultAction: seccomp.defaultAction,
    defaultErrno: same(seccomp.defaultErrnoRet),
    architectures: [...(seccomp.architectures ?? [])],
    flags: [...(seccomp.flags ?? [])],
    listenerPath: seccomp.listenerPath ?? "",
    listenerMetadata: seccomp.listenerMetadata ?? "",
    syscalls: (seccomp.syscalls ?? []).map(({ names, action, errnoRet, args = [] }) => ({
      names: [...names],
      action,
      errnoRet: same(errnoRet),
      args: args.map(({ index, value, valueTwo = 0, op }) => ({
        index,
        value: BigInt(value),
        valueTwo: BigInt(valueTwo),
        op,
      })),
    })),
  };
}
