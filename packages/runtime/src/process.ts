/** What a process is and may do: the same for a container's own and for one that is executed in it. */
import {
  CAP_SYS_RESOURCE,
  capabilitiesOfMask,
  capabilityMask,
  isRlimitName,
  maskOfList,
  MEMORY_POLICIES,
  MEMORY_POLICY_FLAGS,
  RLIM_INFINITY,
  RLIMITS,
  rlimitValue,
  type HostFacts,
} from "@berth/kernel";
import type { oci } from "@berth/spec";
import type { PlanBuilder } from "./builder.ts";
import { PlanError } from "./context.ts";
import { addHooks, has, type StateSource } from "./hooks.ts";
import { isConfined, keepsGroups } from "./rootless.ts";

const DEFAULT_UMASK = 0o022;

export interface ProcessContext {
  readonly host: HostFacts;
  readonly inUserns: boolean;
  /** Adds the orders of the seccomp filter, if there is one. */
  readonly addSeccomp: () => void;
  readonly preserveFds: number;
  readonly personality: oci.LinuxPersonality | undefined;
  readonly memoryPolicy: oci.LinuxMemoryPolicy | undefined;
  /** A missing program is found out before the process is released, and told as runc tells it. */
  readonly checksProgram?: boolean | undefined;
  /** Once released the process waits here for its start, alone. */
  readonly fifo?: Fifo | undefined;
  /** While it waits its namespaces can be joined by an ordinary user, who may not look into a process that is not dumpable. */
  readonly isJoinable?: boolean | undefined;
}

/** For `affinity`: whatever the cgroup allows. */
export const ALL_CPUS = new Uint8Array();

/** Orders of the stage: what only the host's root may set. */
export function stageProcess(plan: PlanBuilder, process: oci.Process, context: ProcessContext): void {
  oomScore(plan, process, context.host);
  // A capability in a user namespace does not lift a hard limit: the stage does, before the clone.
  if (context.inUserns) rlimits(plan, process, context.host, "raise");
}

function oomScore(plan: PlanBuilder, process: oci.Process, host: HostFacts): void {
  const wanted = process.oomScoreAdj;
  if (wanted === undefined) return;
  const field = "process.oomScoreAdj";
  if (wanted < -1000 || wanted > 1000) throw new PlanError(field, `${wanted} is not between -1000 and 1000`);
  const mayLower = mayExceed(host);
  const given = !mayLower && wanted < host.oomScoreAdj ? host.oomScoreAdj : wanted;
  if (given !== wanted)
    plan.warn(`${field}: ${wanted} needs CAP_SYS_RESOURCE, which this machine does not give: set to ${given}`);
  plan.add("write_file", { path: "/proc/self/oom_score_adj", data: Buffer.from(String(given)) }, field);
}

/** A capability of a user namespace lifts no limit of the machine's. */
function mayExceed(host: HostFacts): boolean {
  return !isConfined(host) && (host.capabilities.effective & CAP_SYS_RESOURCE) !== 0n;
}

/** A slot with a directory, and the name of a FIFO in it. */
export interface Fifo {
  readonly slot: number;
  readonly name: string;
}

/**
 * Orders inside, after the last file was made and before `exec`. `container`: what its startContainer hooks are told; a
 * further process has none, and does not wait for its start (park) either.
 */
export function becomeProcess(
  plan: PlanBuilder,
  process: oci.Process,
  context: ProcessContext,
  container: StateSource | undefined,
): void {
  const { user } = process;
  const args = process.args ?? [];
  if (args.length === 0) throw new PlanError("process.args", "is empty: there is nothing to run");
  plan.add("umask", { mask: user.umask ?? DEFAULT_UMASK }, user.umask === undefined ? "default" : "process.user.umask");
  if (process.noNewPrivileges) plan.add("no_new_privs", {}, "process.noNewPrivileges");
  schedulerOrders(plan, process);
  personality(plan, context.personality);
  memoryPolicy(plan, context.memoryPolicy);
  rlimits(plan, process, context.host, "set");
  // Without no_new_privs loading a filter takes CAP_SYS_ADMIN, which ends with the change of user below.
  if (!process.noNewPrivileges) context.addSeccomp();
  const isRoot = user.uid === 0;
  // As root first, for a directory that only root may enter; again as the user, for one that only the user may.
  plan.add("chdir", { path: process.cwd, tolerate: isRoot ? 0 : 1 }, "process.cwd");
  const sets = capabilitySets(plan, process, context);
  plan.add("bounding", { mask: sets.bounding }, "process.capabilities.bounding");
  const groups = user.additionalGids ?? [];
  plan.add(
    "user",
    { uid: user.uid, gid: user.gid, groups, keepGroups: keepsGroups(context.host) ? 1 : 0, chownStdio: isRoot ? 0 : 1 },
    "process.user",
  );
  if (!isRoot) plan.add("chdir", { path: process.cwd, tolerate: 0 }, "process.cwd");
  plan.add(
    "caps",
    { effective: sets.effective, permitted: sets.permitted, inheritable: sets.inheritable, ambient: sets.ambient },
    "process.capabilities",
  );
  if (context.checksProgram) plan.add("check_program", { name: args[0] ?? "", env: process.env ?? [] }, "process.args");
  if (container !== undefined) plan.add("park", {}, "start");
  if (context.fifo !== undefined && context.isJoinable) plan.add("dumpable", { value: 1 }, "exec before the start");
  if (context.fifo !== undefined) plan.add("wait_fifo", context.fifo, "start");
  // As the filter is for whatever the container runs, it holds for these hooks too; else only execve(2) has to pass it.
  const hooked = container !== undefined && has(container.spec, "startContainer");
  if (process.noNewPrivileges) context.addSeccomp();
  if (hooked) addHooks(plan, "startContainer", container, "created");
  plan.add("exec", { argv: args, env: environment(process), keep: context.preserveFds }, "process.args");
}

/** HOME is what programs cannot do without: unset or empty, it comes from the image's passwd. */
export function needsHome(process: oci.Process): boolean {
  return !environment(process).some((entry) => entry.startsWith("HOME="));
}

export function lookUpHome(plan: PlanBuilder, process: oci.Process, root: number): void {
  if (needsHome(process)) plan.add("home", { root, uid: process.user.uid }, "process.env (HOME)");
}

/** Each variable once, the last one given; an empty HOME is none. Throws PlanError. */
function environment(process: oci.Process): readonly string[] {
  const variables = new Map<string, string>();
  for (const [index, entry] of (process.env ?? []).entries()) {
    const at = entry.indexOf("=");
    if (at <= 0)
      throw new PlanError(
        `process.env[${index}]`,
        `invalid environment variable ${JSON.stringify(entry)}: no NAME=value`,
      );
    variables.set(entry.slice(0, at), entry);
  }
  if (variables.get("HOME") === "HOME=") variables.delete("HOME");
  return [...variables.values()];
}

/** personality(2). */
const PERSONALITIES: Readonly<Record<string, bigint>> = { LINUX: 0n, LINUX32: 8n };

function personality(plan: PlanBuilder, wanted: oci.LinuxPersonality | undefined): void {
  if (wanted === undefined) return;
  const value = Object.hasOwn(PERSONALITIES, wanted.domain) ? PERSONALITIES[wanted.domain] : undefined;
  if (value === undefined)
    throw new PlanError(
      "linux.personality.domain",
      `${JSON.stringify(wanted.domain)} is none of ${Object.keys(PERSONALITIES).join(", ")}`,
    );
  if ((wanted.flags ?? []).length > 0)
    throw new PlanError("linux.personality.flags", "the specification names no flags: leave the list empty");
  plan.add("personality", { value }, "linux.personality");
}

function memoryPolicy(plan: PlanBuilder, policy: oci.LinuxMemoryPolicy | undefined): void {
  if (policy === undefined) return;
  const field = "linux.memoryPolicy";
  const { mode: name, nodes: list = "", flags = [] } = policy;
  let mode = Object.hasOwn(MEMORY_POLICIES, name) ? MEMORY_POLICIES[name] : undefined;
  if (mode === undefined)
    throw new PlanError(`${field}.mode`, `invalid memory policy mode ${JSON.stringify(name ?? "")}`);
  for (const flag of flags) {
    const bit = Object.hasOwn(MEMORY_POLICY_FLAGS, flag) ? MEMORY_POLICY_FLAGS[flag] : undefined;
    if (bit === undefined) throw new PlanError(`${field}.flags`, `invalid memory policy flag ${JSON.stringify(flag)}`);
    mode |= bit;
  }
  const nodes = maskOfList(list);
  if (nodes === undefined)
    throw new PlanError(
      `${field}.nodes`,
      `invalid memory policy nodes ${JSON.stringify(list)}: not a list as in "0-1,3"`,
    );
  checkNodes(policy.mode, nodes, `${field}.nodes`);
  plan.add("mempolicy", { mode, nodes }, field);
}

/** set_mempolicy(2), in runc's words. */
function checkNodes(mode: string, nodes: Uint8Array, field: string): void {
  const count = nodes.reduce((sum, byte) => sum + byte.toString(2).replaceAll("0", "").length, 0);
  const none = mode === "MPOL_DEFAULT" || mode === "MPOL_LOCAL";
  if (none && count > 0) throw new PlanError(field, `memory policy mode requires 0 nodes but got ${count}`);
  if (!none && mode !== "MPOL_PREFERRED" && count === 0)
    throw new PlanError(field, "memory policy mode requires at least one node but got 0");
}

/** A list of CPUs of process.execCPUAffinity; undefined: leave as it is. Throws PlanError. */
export function cpuMask(list: string | undefined, field: string): Uint8Array | undefined {
  if (list === undefined || list === "") return undefined;
  const mask = maskOfList(list);
  if (mask === undefined || mask.length === 0)
    throw new PlanError(field, `${JSON.stringify(list)} is not a list of CPUs, as in "0-3,7"`);
  return mask;
}

interface CapabilitySets {
  readonly bounding: bigint;
  readonly effective: bigint;
  readonly permitted: bigint;
  readonly inheritable: bigint;
  readonly ambient: bigint;
}

/**
 * Absent sets are empty (the inheritable one too: CVE-2022-29162). What the kernel does not know or this process itself
 * does not have cannot be given: left out, with a warning.
 */
function capabilitySets(plan: PlanBuilder, process: oci.Process, { host, inUserns }: ProcessContext): CapabilitySets {
  const known = (1n << BigInt(host.capabilities.last + 1)) - 1n;
  // A user namespace's first process has all capabilities there, whatever its maker has.
  const own = inUserns ? known : known & host.capabilities.effective;
  const missing = new Set<string>();
  const strange = new Set<string>();
  const mask = (set: keyof oci.LinuxCapabilities): bigint => {
    const { mask: wanted, unknown } = capabilityMask(process.capabilities?.[set] ?? []);
    for (const name of unknown) strange.add(name);
    for (const name of capabilitiesOfMask(wanted & ~own)) missing.add(name);
    return wanted & own;
  };
  const sets = {
    bounding: mask("bounding"),
    effective: mask("effective"),
    permitted: mask("permitted"),
    inheritable: mask("inheritable"),
    ambient: mask("ambient"),
  };
  // As runc has it, in its words: a list may be newer than the kernel.
  if (strange.size > 0) plan.warn(`ignoring unknown or unavailable capabilities: [${[...strange].sort().join(" ")}]`);
  if (missing.size > 0)
    plan.warn(`process.capabilities: ${[...missing].join(", ")}: not given, because this machine does not have them`);
  return checkedSets(plan, sets);
}

/** capabilities(7): effective within permitted, ambient within permitted and inheritable. */
function checkedSets(plan: PlanBuilder, sets: CapabilitySets): CapabilitySets {
  const excess = sets.effective & ~sets.permitted;
  if (excess !== 0n)
    throw new PlanError(
      "process.capabilities.effective",
      `${capabilitiesOfMask(excess).join(", ")}: not in the permitted set`,
    );
  const ambient = sets.ambient & sets.permitted & sets.inheritable;
  const dropped = capabilitiesOfMask(sets.ambient & ~ambient);
  for (const name of dropped)
    plan.warn(
      `process.capabilities.ambient: can't raise ambient capability ${name}: it must be permitted and inheritable too`,
    );
  return { ...sets, ambient };
}

/** "raise": only what is above this process's own hard limits. "set": the values themselves. */
function rlimits(plan: PlanBuilder, process: oci.Process, host: HostFacts, how: "raise" | "set"): void {
  const mayRaise = mayExceed(host);
  for (const [index, limit] of (process.rlimits ?? []).entries()) {
    const field = `process.rlimits[${index}]`;
    const { type } = limit;
    if (!isRlimitName(type)) throw new PlanError(`${field}.type`, `${JSON.stringify(type)} is not a resource limit`);
    const wanted = { soft: rlimitValue(limit.soft), hard: rlimitValue(limit.hard) };
    if (wanted.soft > wanted.hard)
      throw new PlanError(`${field}.soft`, `${wanted.soft} is above the hard limit ${wanted.hard}`);
    const own = host.rlimits[type]?.hard ?? RLIM_INFINITY;
    const hard = wanted.hard > own && !mayRaise ? own : wanted.hard;
    const soft = wanted.soft > hard ? hard : wanted.soft;
    if (how === "raise") {
      if (hard > own) plan.add("rlimit", { resource: RLIMITS[type], soft: own, hard }, field);
      continue;
    }
    if (hard !== wanted.hard)
      plan.warn(
        `${field}: a hard ${type} of ${limitText(wanted.hard)} needs CAP_SYS_RESOURCE, which this machine does not give: set to ${limitText(hard)}`,
      );
    plan.add("rlimit", { resource: RLIMITS[type], soft, hard }, field);
  }
}

function limitText(value: bigint): string {
  return value === RLIM_INFINITY ? "unlimited" : String(value);
}

const POLICIES: Readonly<Record<string, number>> = {
  SCHED_OTHER: 0,
  SCHED_FIFO: 1,
  SCHED_RR: 2,
  SCHED_BATCH: 3,
  SCHED_ISO: 4,
  SCHED_IDLE: 5,
  SCHED_DEADLINE: 6,
};
const SCHEDULER_FLAGS: Readonly<Record<string, bigint>> = {
  SCHED_FLAG_RESET_ON_FORK: 0x1n,
  SCHED_FLAG_RECLAIM: 0x2n,
  SCHED_FLAG_DL_OVERRUN: 0x4n,
  SCHED_FLAG_KEEP_POLICY: 0x8n,
  SCHED_FLAG_KEEP_PARAMS: 0x10n,
  SCHED_FLAG_UTIL_CLAMP_MIN: 0x20n,
  SCHED_FLAG_UTIL_CLAMP_MAX: 0x40n,
};
const IO_CLASSES: Readonly<Record<string, number>> = { IOPRIO_CLASS_RT: 1, IOPRIO_CLASS_BE: 2, IOPRIO_CLASS_IDLE: 3 };
const IO_CLASS_SHIFT = 13;

function schedulerOrders(plan: PlanBuilder, process: oci.Process): void {
  const { scheduler, ioPriority } = process;
  if (scheduler !== undefined) {
    const policy = POLICIES[scheduler.policy];
    if (policy === undefined)
      throw new PlanError("process.scheduler.policy", `${JSON.stringify(scheduler.policy)} is not a scheduling policy`);
    let flags = 0n;
    for (const flag of scheduler.flags ?? []) {
      const bit = SCHEDULER_FLAGS[flag];
      if (bit === undefined)
        throw new PlanError("process.scheduler.flags", `${JSON.stringify(flag)} is not a scheduler flag`);
      flags |= bit;
    }
    const { nice = 0, priority = 0, runtime = 0, deadline = 0, period = 0 } = scheduler;
    plan.add(
      "scheduler",
      {
        policy,
        flags,
        nice: BigInt(nice),
        priority,
        runtime: BigInt(runtime),
        deadline: BigInt(deadline),
        period: BigInt(period),
      },
      "process.scheduler",
    );
  }
  if (ioPriority !== undefined) {
    const ioClass = IO_CLASSES[ioPriority.class];
    if (ioClass === undefined)
      throw new PlanError(
        "process.ioPriority.class",
        `${JSON.stringify(ioPriority.class)} is not an I/O priority class`,
      );
    plan.add("ioprio", { value: (ioClass << IO_CLASS_SHIFT) | ioPriority.priority }, "process.ioPriority");
  }
}

/** AppArmor's profile and SELinux's label for the next exec, written through a procfs that nothing else can have touched. */
export function securityLabels(plan: PlanBuilder, process: oci.Process, host: HostFacts, proc: number): void {
  const { apparmorProfile, selinuxLabel } = process;
  if (needsAppArmor(process, host)) {
    plan.add(
      "write_proc",
      { slot: proc, path: "self/attr/apparmor/exec", data: Buffer.from(`exec ${apparmorProfile ?? ""}`) },
      "process.apparmorProfile",
    );
  }
  if (needsSelinux(process, host)) {
    plan.add(
      "write_proc",
      { slot: proc, path: "self/attr/exec", data: Buffer.from(selinuxLabel ?? "") },
      "process.selinuxLabel",
    );
  }
}

/** Throws PlanError where a profile is asked for that the machine cannot enforce. */
export function needsAppArmor({ apparmorProfile }: oci.Process, host: HostFacts): boolean {
  if (apparmorProfile === undefined || apparmorProfile === "" || apparmorProfile === "unconfined") return false;
  if (!host.apparmor)
    throw new PlanError(
      "process.apparmorProfile",
      `${JSON.stringify(apparmorProfile)}: AppArmor is not enabled on this machine`,
    );
  return true;
}

export function needsSelinux({ selinuxLabel }: oci.Process, host: HostFacts): boolean {
  if (selinuxLabel === undefined || selinuxLabel === "") return false;
  if (!host.selinux)
    throw new PlanError(
      "process.selinuxLabel",
      `${JSON.stringify(selinuxLabel)}: SELinux is not enabled on this machine`,
    );
  return true;
}
