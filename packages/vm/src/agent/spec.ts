/**
 * A container's config as Kata's agent takes it: what is the host's own is left out, as kata-runtime leaves it out (kata_agent.go,
 * constrainGRPCSpec), and what the agent has no field for is refused by name.
 */
import type { oci } from "@berth/spec";
import type { agentOci } from "@berth/spec/kata";
import type { MessageInitShape } from "@bufbuild/protobuf";
import { VmError } from "../errors.ts";

export type AgentSpec = MessageInitShape<typeof agentOci.SpecSchema>;
export type AgentProcess = MessageInitShape<typeof agentOci.ProcessSchema>;
export type AgentResources = MessageInitShape<typeof agentOci.LinuxResourcesSchema>;

export interface AgentSpecOptions {
  /** In the guest. */
  readonly cgroup: string;
  /** Whether this agent can filter system calls. */
  readonly seccomp: boolean;
}

/** Given by the agent: the sandbox's own, and each container's PID namespace. */
const AGENTS_OWN: readonly oci.LinuxNamespace[] = [{ type: "ipc" }, { type: "uts" }];
/** Of the agent's container: the rest is the machine's, or the host's. */
const CONTAINERS_OWN = new Set<oci.NamespaceType>(["mount"]);

/** Whether it wants the pod's PID namespace. Throws VmError Unsupported for what the agent cannot give. */
export function wantsSandboxPids({ linux }: oci.Spec): boolean {
  const pid = linux?.namespaces?.find(({ type }) => type === "pid");
  if (!pid)
    throw unsupported("linux.namespaces", "each of its containers has a PID namespace; none can have the guest's");
  return (pid.path ?? "") !== "";
}

/** Throws VmError Unsupported, naming the field. */
export function agentSpec(spec: oci.Spec, { cgroup, seccomp }: AgentSpecOptions): AgentSpec {
  const { linux = {}, process, root, mounts = [], annotations = {} } = spec;
  if (!process) throw unsupported("process", "a container without one");
  const left: Readonly<Record<string, unknown>> = {
    hooks: spec.hooks,
    domainname: spec.domainname,
    "linux.netDevices": linux.netDevices,
    "linux.memoryPolicy": linux.memoryPolicy,
    "linux.personality": linux.personality,
    "linux.timeOffsets": linux.timeOffsets,
    "linux.uidMappings": linux.uidMappings,
    "linux.intelRdt": linux.intelRdt,
  };
  for (const [field, value] of Object.entries(left)) if (value !== undefined) throw unsupported(field);
  return {
    Version: spec.ociVersion,
    Process: agentProcess(process),
    Root: { Path: root?.path ?? "", Readonly: root?.readonly === true },
    Hostname: spec.hostname ?? "",
    Mounts: mounts.map(agentMount),
    Annotations: { ...annotations },
    Linux: {
      Sysctl: { ...linux.sysctl },
      Resources: agentResources(linux.resources ?? {}),
      CgroupsPath: cgroup,
      Namespaces: [...(linux.namespaces ?? []).filter(({ type }) => CONTAINERS_OWN.has(type)), ...AGENTS_OWN].map(
        ({ type }) => ({ Type: type, Path: "" }),
      ),
      Devices: (linux.devices ?? []).map((device) => ({
        Path: device.path,
        Type: device.type,
        Major: integer(device.major),
        Minor: integer(device.minor),
        FileMode: device.fileMode ?? 0o666,
        UID: device.uid ?? 0,
        GID: device.gid ?? 0,
      })),
      ...(linux.seccomp && { Seccomp: agentSeccomp(linux.seccomp, seccomp) }),
      RootfsPropagation: linux.rootfsPropagation ?? "",
      MaskedPaths: [...(linux.maskedPaths ?? [])],
      ReadonlyPaths: [...(linux.readonlyPaths ?? [])],
    },
  };
}

/** Throws VmError Unsupported, naming the field. */
export function agentProcess(process: oci.Process): AgentProcess {
  const { user, capabilities } = process;
  const left: Readonly<Record<string, unknown>> = {
    "process.scheduler": process.scheduler,
    "process.ioPriority": process.ioPriority,
    "process.execCPUAffinity": process.execCPUAffinity,
    "process.user.umask": user.umask,
  };
  for (const [field, value] of Object.entries(left)) if (value !== undefined) throw unsupported(field);
  return {
    Terminal: process.terminal === true,
    ...(process.consoleSize && {
      ConsoleSize: { Height: process.consoleSize.height, Width: process.consoleSize.width },
    }),
    User: { UID: user.uid, GID: user.gid, AdditionalGids: [...(user.additionalGids ?? [])] },
    Args: [...(process.args ?? [])],
    Env: [...(process.env ?? [])],
    Cwd: process.cwd,
    Capabilities: {
      Bounding: [...(capabilities?.bounding ?? [])],
      Effective: [...(capabilities?.effective ?? [])],
      Inheritable: [...(capabilities?.inheritable ?? [])],
      Permitted: [...(capabilities?.permitted ?? [])],
      Ambient: [...(capabilities?.ambient ?? [])],
    },
    Rlimits: (process.rlimits ?? []).map(({ type, soft, hard }) => ({
      Type: type,
      Soft: integer(soft),
      Hard: integer(hard),
    })),
    NoNewPrivileges: process.noNewPrivileges === true,
    OOMScoreAdj: integer(process.oomScoreAdj),
  };
}

/**
 * Devices, the number of processes, block and network limits and processors by number are the host's, where the machine is limited.
 * Throws VmError Unsupported for files of cgroup v2 by name.
 */
export function agentResources({ memory, cpu, hugepageLimits, unified, rdma }: oci.LinuxResources): AgentResources {
  if (unified !== undefined) throw unsupported("linux.resources.unified");
  if (rdma !== undefined) throw unsupported("linux.resources.rdma");
  return {
    ...(memory && {
      Memory: {
        Limit: integer(memory.limit),
        Reservation: integer(memory.reservation),
        Swap: integer(memory.swap),
        Kernel: integer(memory.kernel),
        KernelTCP: integer(memory.kernelTCP),
        Swappiness: integer(memory.swappiness),
        DisableOOMKiller: memory.disableOOMKiller === true,
      },
    }),
    ...(cpu && {
      CPU: {
        Shares: integer(cpu.shares),
        Quota: integer(cpu.quota),
        Period: integer(cpu.period),
        RealtimeRuntime: integer(cpu.realtimeRuntime),
        RealtimePeriod: integer(cpu.realtimePeriod),
      },
    }),
    HugepageLimits: (hugepageLimits ?? []).map(({ pageSize, limit }) => ({
      Pagesize: pageSize,
      Limit: integer(limit),
    })),
  };
}

function agentMount(mount: oci.Mount, index: number) {
  if (mount.uidMappings ?? mount.gidMappings) throw unsupported(`mounts[${index}].uidMappings`);
  return {
    destination: mount.destination,
    source: mount.source ?? "",
    type: mount.type ?? "",
    options: [...(mount.options ?? [])],
  };
}

const EPERM = 1;

function agentSeccomp(
  seccomp: oci.LinuxSeccomp,
  supported: boolean,
): MessageInitShape<typeof agentOci.LinuxSeccompSchema> {
  if (!supported)
    throw unsupported("linux.seccomp", "it was built without; set disable_guest_seccomp = true in configuration.toml");
  if (seccomp.listenerPath !== undefined) throw unsupported("linux.seccomp.listenerPath");
  if ((seccomp.defaultErrnoRet ?? EPERM) !== EPERM) throw unsupported("linux.seccomp.defaultErrnoRet");
  return {
    DefaultAction: seccomp.defaultAction,
    Architectures: [...(seccomp.architectures ?? [])],
    Flags: [...(seccomp.flags ?? [])],
    Syscalls: (seccomp.syscalls ?? []).map(({ names, action, errnoRet, args = [] }) => ({
      Names: [...names],
      Action: action,
      ErrnoRet: errnoRet === undefined ? { case: undefined } : { case: "errnoret", value: errnoRet },
      Args: args.map(({ index, value, valueTwo, op }) => ({
        Index: integer(index),
        Value: integer(value),
        ValueTwo: integer(valueTwo),
        Op: op,
      })),
    })),
  };
}

/** 0 where there is none: so the agent's protocol says it. */
const integer = (value: number | bigint | undefined): bigint => BigInt(value ?? 0);

function unsupported(field: string, why = "the agent's protocol has no word for it"): VmError {
  return new VmError("Unsupported", `${field}: not with Kata's agent: ${why}`);
}
