/**
 * OCI runtime-spec 1.3 (config.md, config-linux.md), as types, and `validateSpec`. Field names and meanings are the
 * specification's; what it leaves to the runtime is said where berth decides it. Other platforms' sections are not here.
 */
export { validateSpec, type SpecProblem, type SpecReport } from "./runtime-validation.ts";

export const SPEC_VERSION = "1.3.0";

/** An unsigned 64-bit number: above 2^53 JSON numbers are not exact, so `parseSpec` gives a bigint there. */
export type U64 = number | bigint;

export interface Spec {
  /** SemVer of the specification that the bundle follows. */
  readonly ociVersion: string;
  readonly process?: Process | undefined;
  readonly root?: Root | undefined;
  readonly hostname?: string | undefined;
  readonly domainname?: string | undefined;
  /** Carried out in order: a later one may lie inside an earlier one. */
  readonly mounts?: readonly Mount[] | undefined;
  readonly hooks?: Hooks | undefined;
  readonly annotations?: Readonly<Record<string, string>> | undefined;
  readonly linux?: Linux | undefined;
}

export interface Process {
  readonly terminal?: boolean | undefined;
  readonly consoleSize?: Box | undefined;
  readonly user: User;
  readonly args?: readonly string[] | undefined;
  /** `KEY=value`; a later entry wins. */
  readonly env?: readonly string[] | undefined;
  /** Absolute, in the container. */
  readonly cwd: string;
  /** Absent: no capabilities at all. */
  readonly capabilities?: LinuxCapabilities | undefined;
  readonly rlimits?: readonly Rlimit[] | undefined;
  readonly noNewPrivileges?: boolean | undefined;
  readonly apparmorProfile?: string | undefined;
  /** -1000 to 1000; absent: the runtime's own is inherited. */
  readonly oomScoreAdj?: number | undefined;
  readonly selinuxLabel?: string | undefined;
  readonly scheduler?: Scheduler | undefined;
  readonly ioPriority?: LinuxIOPriority | undefined;
  readonly execCPUAffinity?: { readonly initial?: string | undefined; readonly final?: string | undefined } | undefined;
}

/** Characters. */
export interface Box {
  readonly height: number;
  readonly width: number;
}

export interface User {
  readonly uid: number;
  readonly gid: number;
  /** Default 0o022. */
  readonly umask?: number | undefined;
  readonly additionalGids?: readonly number[] | undefined;
}

/** Each a list of CAP_* names. */
export interface LinuxCapabilities {
  readonly bounding?: readonly string[] | undefined;
  readonly effective?: readonly string[] | undefined;
  readonly inheritable?: readonly string[] | undefined;
  readonly permitted?: readonly string[] | undefined;
  readonly ambient?: readonly string[] | undefined;
}

export interface Rlimit {
  /** RLIMIT_*. */
  readonly type: string;
  readonly soft: U64;
  readonly hard: U64;
}

/** sched_setattr(2). */
export interface Scheduler {
  readonly policy: string;
  readonly nice?: number | undefined;
  readonly priority?: number | undefined;
  readonly flags?: readonly string[] | undefined;
  /** Nanoseconds. */
  readonly runtime?: U64 | undefined;
  readonly deadline?: U64 | undefined;
  readonly period?: U64 | undefined;
}

export interface LinuxIOPriority {
  readonly class: "IOPRIO_CLASS_RT" | "IOPRIO_CLASS_BE" | "IOPRIO_CLASS_IDLE";
  /** 0 (highest) to 7. */
  readonly priority: number;
}

export interface Root {
  /** Absolute, or relative to the bundle. */
  readonly path: string;
  readonly readonly?: boolean | undefined;
}

export interface Mount {
  /** Absolute, in the container (a relative one is taken from "/", as runc does, with a warning). */
  readonly destination: string;
  /** File system type; "bind" or absent with a bind option for a bind mount. */
  readonly type?: string | undefined;
  readonly source?: string | undefined;
  /** mount(8)'s options, propagation, recursive `r*`, `idmap`/`ridmap`; unknown ones are file-system data. */
  readonly options?: readonly string[] | undefined;
  readonly uidMappings?: readonly LinuxIdMapping[] | undefined;
  readonly gidMappings?: readonly LinuxIdMapping[] | undefined;
}

export interface LinuxIdMapping {
  readonly containerID: number;
  readonly hostID: number;
  readonly size: number;
}

export interface Hook {
  /** Absolute. */
  readonly path: string;
  /** With argv[0]. */
  readonly args?: readonly string[] | undefined;
  readonly env?: readonly string[] | undefined;
  /** Seconds, above 0. */
  readonly timeout?: number | undefined;
}

export interface Hooks {
  /** Deprecated by the specification in favour of the next three; still run first. */
  readonly prestart?: readonly Hook[] | undefined;
  readonly createRuntime?: readonly Hook[] | undefined;
  readonly createContainer?: readonly Hook[] | undefined;
  readonly startContainer?: readonly Hook[] | undefined;
  readonly poststart?: readonly Hook[] | undefined;
  readonly poststop?: readonly Hook[] | undefined;
}

export interface Linux {
  readonly uidMappings?: readonly LinuxIdMapping[] | undefined;
  readonly gidMappings?: readonly LinuxIdMapping[] | undefined;
  readonly sysctl?: Readonly<Record<string, string>> | undefined;
  readonly resources?: LinuxResources | undefined;
  readonly cgroupsPath?: string | undefined;
  readonly namespaces?: readonly LinuxNamespace[] | undefined;
  readonly devices?: readonly LinuxDevice[] | undefined;
  readonly netDevices?: Readonly<Record<string, { readonly name?: string | undefined }>> | undefined;
  readonly seccomp?: LinuxSeccomp | undefined;
  /** "shared", "slave", "private", "unbindable", each also with a leading "r". */
  readonly rootfsPropagation?: string | undefined;
  readonly maskedPaths?: readonly string[] | undefined;
  readonly readonlyPaths?: readonly string[] | undefined;
  readonly mountLabel?: string | undefined;
  readonly intelRdt?: LinuxIntelRdt | undefined;
  readonly memoryPolicy?: LinuxMemoryPolicy | undefined;
  readonly personality?: LinuxPersonality | undefined;
  /** By clock: "monotonic", "boottime". */
  readonly timeOffsets?:
    | Readonly<Record<string, { readonly secs?: number | undefined; readonly nanosecs?: number | undefined }>>
    | undefined;
}

export const NAMESPACE_TYPES = ["pid", "network", "mount", "ipc", "uts", "user", "cgroup", "time"] as const;
export type NamespaceType = (typeof NAMESPACE_TYPES)[number];

export interface LinuxNamespace {
  readonly type: NamespaceType;
  /** A namespace file to join; absent: a new one. */
  readonly path?: string | undefined;
}

export interface LinuxDevice {
  readonly path: string;
  /** "c" and "u" character, "b" block, "p" FIFO. */
  readonly type: "c" | "b" | "u" | "p";
  readonly major?: number | undefined;
  readonly minor?: number | undefined;
  /** Permission bits; default 0o666. */
  readonly fileMode?: number | undefined;
  readonly uid?: number | undefined;
  readonly gid?: number | undefined;
}

export interface LinuxDeviceCgroup {
  readonly allow: boolean;
  /** "a" (all, the default), "c" or "b". */
  readonly type?: string | undefined;
  /** Absent: all. */
  readonly major?: number | undefined;
  readonly minor?: number | undefined;
  /** Of "r", "w", "m" (mknod); absent: all. */
  readonly access?: string | undefined;
}

export interface LinuxResources {
  readonly devices?: readonly LinuxDeviceCgroup[] | undefined;
  readonly memory?: LinuxMemory | undefined;
  readonly cpu?: LinuxCPU | undefined;
  readonly pids?: { readonly limit?: number | undefined } | undefined;
  readonly blockIO?: LinuxBlockIO | undefined;
  readonly hugepageLimits?: readonly LinuxHugepageLimit[] | undefined;
  readonly network?: LinuxNetwork | undefined;
  readonly rdma?: Readonly<Record<string, LinuxRdma>> | undefined;
  /** cgroup v2 files by name. */
  readonly unified?: Readonly<Record<string, string>> | undefined;
}

/** Bytes; -1 is unlimited. */
export interface LinuxMemory {
  readonly limit?: number | undefined;
  readonly reservation?: number | undefined;
  /** Memory and swap together. */
  readonly swap?: number | undefined;
  readonly kernel?: number | undefined;
  readonly kernelTCP?: number | undefined;
  /** 0 to 100; v1 only. */
  readonly swappiness?: number | undefined;
  readonly disableOOMKiller?: boolean | undefined;
  readonly useHierarchy?: boolean | undefined;
  readonly checkBeforeUpdate?: boolean | undefined;
}

/** Times in microseconds. */
export interface LinuxCPU {
  /** 0: unset. */
  readonly shares?: number | undefined;
  /** Negative: unlimited; 0: unset. */
  readonly quota?: number | undefined;
  readonly burst?: number | undefined;
  readonly period?: number | undefined;
  readonly realtimeRuntime?: number | undefined;
  readonly realtimePeriod?: number | undefined;
  /** List format of cpuset(7), as in "0-3,7". */
  readonly cpus?: string | undefined;
  readonly mems?: string | undefined;
  /** 1: SCHED_IDLE for the whole cgroup. */
  readonly idle?: number | undefined;
}

export interface LinuxBlockIO {
  /** 10 to 1000. */
  readonly weight?: number | undefined;
  readonly leafWeight?: number | undefined;
  readonly weightDevice?: readonly LinuxWeightDevice[] | undefined;
  readonly throttleReadBpsDevice?: readonly LinuxThrottleDevice[] | undefined;
  readonly throttleWriteBpsDevice?: readonly LinuxThrottleDevice[] | undefined;
  readonly throttleReadIOPSDevice?: readonly LinuxThrottleDevice[] | undefined;
  readonly throttleWriteIOPSDevice?: readonly LinuxThrottleDevice[] | undefined;
}

export interface LinuxWeightDevice {
  readonly major: number;
  readonly minor: number;
  readonly weight?: number | undefined;
  readonly leafWeight?: number | undefined;
}

export interface LinuxThrottleDevice {
  readonly major: number;
  readonly minor: number;
  /** Bytes or operations per second. */
  readonly rate: U64;
}

export interface LinuxHugepageLimit {
  /** As in "2MB", "1GB". */
  readonly pageSize: string;
  /** Bytes. */
  readonly limit: U64;
}

export interface LinuxNetwork {
  readonly classID?: number | undefined;
  readonly priorities?: readonly { readonly name: string; readonly priority: number }[] | undefined;
}

export interface LinuxRdma {
  readonly hcaHandles?: number | undefined;
  readonly hcaObjects?: number | undefined;
}

export interface LinuxPersonality {
  readonly domain: "LINUX" | "LINUX32";
  readonly flags?: readonly string[] | undefined;
}

export interface LinuxIntelRdt {
  readonly closID?: string | undefined;
  readonly schemata?: readonly string[] | undefined;
  readonly l3CacheSchema?: string | undefined;
  readonly memBwSchema?: string | undefined;
  readonly enableMonitoring?: boolean | undefined;
}

export interface LinuxMemoryPolicy {
  readonly mode: string;
  readonly nodes?: string | undefined;
  readonly flags?: readonly string[] | undefined;
}

export interface LinuxSeccomp {
  readonly defaultAction: SeccompAction;
  /** Default EPERM. */
  readonly defaultErrnoRet?: number | undefined;
  /** SCMP_ARCH_*; the machine's own is always included. */
  readonly architectures?: readonly string[] | undefined;
  /** SECCOMP_FILTER_FLAG_*. Absent: SPEC_ALLOW, as runc does. */
  readonly flags?: readonly string[] | undefined;
  readonly listenerPath?: string | undefined;
  readonly listenerMetadata?: string | undefined;
  readonly syscalls?: readonly SeccompRule[] | undefined;
}

export type SeccompAction =
  | "SCMP_ACT_KILL"
  | "SCMP_ACT_KILL_PROCESS"
  | "SCMP_ACT_KILL_THREAD"
  | "SCMP_ACT_TRAP"
  | "SCMP_ACT_ERRNO"
  | "SCMP_ACT_TRACE"
  | "SCMP_ACT_ALLOW"
  | "SCMP_ACT_LOG"
  | "SCMP_ACT_NOTIFY";

export type SeccompOperator =
  | "SCMP_CMP_NE"
  | "SCMP_CMP_LT"
  | "SCMP_CMP_LE"
  | "SCMP_CMP_EQ"
  | "SCMP_CMP_GE"
  | "SCMP_CMP_GT"
  | "SCMP_CMP_MASKED_EQ";

export interface SeccompRule {
  readonly names: readonly string[];
  readonly action: SeccompAction;
  readonly errnoRet?: number | undefined;
  readonly args?: readonly SeccompArgument[] | undefined;
}

export interface SeccompArgument {
  /** 0 to 5. */
  readonly index: number;
  /** With MASKED_EQ: the mask. */
  readonly value: U64;
  /** With MASKED_EQ: what the masked argument must be. */
  readonly valueTwo?: U64 | undefined;
  readonly op: SeccompOperator;
}

/** The state of a container as runtimes print it and hooks read it (runtime.md, "State"). */
export interface State {
  readonly ociVersion: string;
  readonly id: string;
  readonly status: "creating" | "created" | "running" | "stopped";
  readonly pid?: number | undefined;
  readonly bundle: string;
  readonly annotations?: Readonly<Record<string, string>> | undefined;
}

/**
 * Parses config.json, keeping integers that a JavaScript number cannot hold exactly as bigint. A null is an absent field, as
 * it is for the programs in Go that write these files. Throws SyntaxError.
 */
export function parseSpec(text: string): Spec {
  return JSON.parse(text, revive as (key: string, value: unknown) => unknown) as Spec;
}

/** The counterpart of parseSpec. */
export function formatSpec(spec: Spec, indent = 2): string {
  return JSON.stringify(
    spec,
    (_key, value: unknown) => (typeof value === "bigint" ? rawJson(String(value)) : value),
    indent,
  );
}

/** As formatSpec, in one line: the fast way, for what seldom has a number that needs the other. */
export const compactSpec = (spec: Spec): string => (hasBigints(spec) ? formatSpec(spec, 0) : JSON.stringify(spec));

function hasBigints({ process, linux }: Spec): boolean {
  const { rlimits = [], scheduler } = process ?? {};
  const values: unknown[] = rlimits.flatMap(({ soft, hard }) => [soft, hard]);
  if (scheduler) values.push(scheduler.runtime, scheduler.deadline, scheduler.period);
  for (const { limit } of linux?.resources?.hugepageLimits ?? []) values.push(limit);
  for (const { args = [] } of linux?.seccomp?.syscalls ?? [])
    for (const { value, valueTwo } of args) values.push(value, valueTwo);
  return values.some((value) => typeof value === "bigint");
}

function revive(_key: string, value: unknown, context: { readonly source?: string }): unknown {
  if (value === null) return undefined;
  if (typeof value !== "number" || Number.isSafeInteger(value) || context.source === undefined) return value;
  return /^-?\d+$/.test(context.source) ? BigInt(context.source) : value;
}

/** JSON.rawJSON (ES2026), which TypeScript's es2024 library does not declare yet. */
function rawJson(text: string): unknown {
  return (JSON as unknown as { rawJSON(text: string): unknown }).rawJSON(text);
}
