/** What `create` and `run` have in common: a bundle becomes a container that waits for its start. */
import { existsSync, readlinkSync, renameSync, writeFileSync } from "node:fs";
import { join, resolve } from "node:path";
import {
  cgroupDirectories,
  type CgroupDirectories,
  cgroupRemoval,
  hostId,
  NAMESPACE_FILES,
  readHost,
  systemdPlace,
  type Front,
  type HostFacts,
  type Launched,
  type Plan,
  type SystemdPlace,
} from "@berth/kernel";
import type { oci } from "@berth/spec";
import { readBundle, type Bundle } from "../bundle.ts";
import { planContainer } from "../container.ts";
import { withTimeNamespace } from "../criu/time.ts";
import type { Planned } from "../context.ts";
import { intelRdtRemoval } from "../rdt.ts";
import { isFrozen } from "../state/freezer.ts";
import { awaitEmpty, processesBelow } from "../state/processes.ts";
import { FIFO, checkId, type ContainerRecord } from "../state/record.ts";
import type { CommandContext } from "./context.ts";
import { CommandError } from "./failure.ts";
import { hookPlan } from "./hooks.ts";
import { logMade, logPlan, logReleased } from "./milestones.ts";
import { makeNotifyDirectory, withNotifySocket } from "./notify.ts";
import { launchFailure } from "./order-failure.ts";
import { callersCgroups, defaultCgroup, ignoresCgroupErrors, withWritableCgroups } from "./rootless.ts";
import { seccompFilter } from "./seccomp.ts";

export interface Decided {
  readonly id: string;
  readonly bundle: Bundle;
  readonly host: HostFacts;
  readonly shown: CgroupDirectories | undefined;
  readonly rootless: boolean;
  readonly cgroup: string;
  /** With --systemd-cgroup: whose cgroup that is. */
  readonly unit: SystemdPlace | undefined;
  readonly detached: boolean;
  readonly pidFile: string | undefined;
}

export interface Creation extends Decided {
  readonly planned: Planned;
  /** From a checkpoint, by CRIU. */
  readonly restores?: boolean;
}

/** Reads and decides everything; nothing is touched. */
export async function decide(
  context: CommandContext,
  detached: boolean,
  plan: (decided: Decided) => Promise<Planned>,
): Promise<Creation> {
  const { args, flags, global, log } = context;
  // Relative to where the caller is, not to the bundle.
  const pidFile = flags.has("pid-file") ? resolve(flags.text("pid-file")) : undefined;
  if (flags.has("bundle")) process.chdir(flags.text("bundle"));
  const directory = process.cwd();
  if (!existsSync(join(directory, "config.json")))
    throw new CommandError("JSON specification file config.json not found");
  const bundle = readBundle(directory);
  const id = checkId(args[0] ?? "");
  const machine = readHost();
  const { spec } = bundle;
  checkTerminal(context, spec.process?.terminal === true, detached);
  const unit = global.boolean("systemd-cgroup") ? unitOf(spec, id) : undefined;
  const named = unit?.path ?? spec.linux?.cgroupsPath ?? "";
  const cgroup = named === "" ? defaultCgroup(id, machine.cgroups) : named;
  const rootless = ignoresCgroupErrors(global, machine);
  const host = rootless && named === "" ? withWritableCgroups(machine, cgroup, spec.linux?.resources) : machine;
  if (rootless && !isTraceable(spec, host)) log.warning(UNTRACEABLE);
  // Without a cgroup of its own the container is in its caller's.
  const shown = host === machine ? undefined : callersCgroups(machine, host);
  const decided = { id, bundle, host, shown, rootless, cgroup, unit, detached, pidFile };
  return { ...decided, planned: await plan(decided) };
}

/** What `create` (which waits to be started) and `run` make of a bundle. */
export async function planBundle(
  { flags, states, log }: CommandContext,
  { id, bundle, host, cgroup, shown }: Decided,
  waits: boolean,
): Promise<Planned> {
  const { spec, rootfs } = bundle;
  return planContainer(withListenFds(withNotifySocket(spec, states, id)), {
    id,
    rootfs: { kind: "path", path: rootfs },
    cgroup: { path: cgroup, shown },
    host,
    seccomp: await seccompFilter(spec.linux?.seccomp, log),
    terminal: spec.process?.terminal === true,
    preserveFds: flags.number("preserve-fds") + listenFds(),
    checksProgram: true,
    bundle: bundle.directory,
    noPivot: flags.boolean("no-pivot"),
    noNewKeyring: flags.boolean("no-new-keyring"),
    waitAt: waits ? { directory: states.path(id), fifo: FIFO, ...containerRoot(spec) } : undefined,
  });
}

const UNTRACEABLE =
  "Creating a rootless container with no cgroup and no private pid namespace. Such configuration is strongly discouraged (its processes cannot all be found and killed)";

function isTraceable(spec: oci.Spec, { cgroups }: HostFacts): boolean {
  const own = (spec.linux?.namespaces ?? []).some(({ type, path = "" }) => type === "pid" && path === "");
  return own || cgroups.v1.length > 0 || cgroups.unified !== undefined;
}

/** Throws CommandError. */
function unitOf(spec: oci.Spec, id: string): SystemdPlace {
  try {
    return systemdPlace(spec.linux?.cgroupsPath ?? "", id, process.geteuid?.() !== 0);
  } catch (error) {
    throw new CommandError(error instanceof Error ? error.message : String(error));
  }
}

/** A terminal of somebody who leaves must go somewhere, and of somebody who stays it must not. */
export function checkTerminal({ flags }: CommandContext, terminal: boolean, detached: boolean): void {
  const socket = flags.text("console-socket");
  if (detached && terminal && socket === "")
    throw new CommandError("cannot allocate tty if runc will detach without setting console socket");
  if ((!detached || !terminal) && socket !== "")
    throw new CommandError("cannot use console socket if runc will not detach or allocate tty");
}

/** Descriptors that were passed by the protocol of systemd (sd_listen_fds(3)). */
export function listenFds(): number {
  const { LISTEN_FDS: count, LISTEN_PID: pid } = process.env;
  // Meant for the process that the caller started, which is bosun, this one's parent.
  return pid === String(process.ppid) && /^\d+$/.test(count ?? "") ? Number(count) : 0;
}

/** What the program is told of those descriptors: as the first process of its namespace they are its own. */
function withListenFds(spec: oci.Spec): oci.Spec {
  const count = listenFds();
  if (count === 0 || spec.process === undefined) return spec;
  const env = [...(spec.process.env ?? []), `LISTEN_FDS=${count}`, "LISTEN_PID=1"];
  return { ...spec, process: { ...spec.process, env } };
}

/** Whose the FIFO is: the container's root, as the host counts. */
function containerRoot(spec: oci.Spec): { readonly uid: number; readonly gid: number } {
  const { uidMappings, gidMappings, namespaces = [] } = spec.linux ?? {};
  if (!namespaces.some(({ type }) => type === "user")) return { uid: 0, gid: 0 };
  return { uid: hostId(uidMappings ?? [], 0) ?? 0, gid: hostId(gidMappings ?? [], 0) ?? 0 };
}

/** The container's process where it belongs, waiting or running; `prepare` once its state directory is there. What fails is undone. */
export async function place(
  context: CommandContext,
  creation: Creation,
  front: Front,
  prepare: () => void = () => undefined,
): Promise<void> {
  const made = () => release(context, creation, front, make(context, creation, front, prepare));
  if (creation.unit === undefined) return made();
  const { inUnit } = await import("./systemd.ts");
  await inUnit(creation, creation.unit, front, made);
}

/** The state directory, the process up to its parking place, state.json. What fails is undone. */
function make(context: CommandContext, creation: Creation, front: Front, prepare: () => void): Launched {
  const { states, flags, log } = context;
  const { id, planned, detached } = creation;
  const terminal = creation.bundle.spec.process?.terminal === true;
  for (const warning of planned.warnings) log.warning(warning);
  logPlan(log, planned.plan);
  states.make(id);
  try {
    checkCgroup(creation);
  } catch (error) {
    // Of the cgroup nothing is this container's.
    states.remove(id);
    throw error;
  }
  try {
    makeNotifyDirectory(states, id);
    prepare();
    const launched = front.launch({
      plan: planned.plan,
      terminal,
      stdio: detached ? "inherit" : "relay",
      consoleSocket: flags.text("console-socket") || undefined,
      pidfdSocket: flags.has("pidfd-socket") ? { path: flags.text("pidfd-socket"), name: "standard" } : undefined,
      keep: flags.number("preserve-fds") + listenFds(),
      // What CRIU restores becomes this command's child when CRIU's parent ends, and its caller's when this one does.
      subreaper: creation.restores === true || (!detached && !flags.boolean("no-subreaper")),
    });
    logMade(log, launched.pid);
    states.write(recordOf(context, creation, launched));
    return launched;
  } catch (error) {
    undo(context, creation, front);
    throw launchFailure(error, creation.bundle.spec);
  }
}

/** Lets the process go on, to its FIFO or its program. What fails is undone. */
function release(context: CommandContext, creation: Creation, front: Front, launched: Launched): void {
  try {
    front.release(creation.planned.plan);
    logReleased(context.log, "init");
    if (creation.pidFile !== undefined) writePidFile(creation.pidFile, launched.pid);
  } catch (error) {
    undo(context, creation, front);
    throw launchFailure(error, creation.bundle.spec);
  }
}

function undo({ states }: CommandContext, { id, bundle, cgroup, host, unit, restores }: Creation, front: Front): void {
  front.abandon();
  // CRIU has not ended yet: it sees that nobody waits for it, and takes back what it did.
  if (restores === true) awaitEmpty(Object.values(cgroupPaths(cgroup, host)));
  // A unit's is not empty yet: it goes with the unit.
  if (unit === undefined) front.run(cgroupRemoval(cgroup, host));
  front.run(intelRdtRemoval(bundle.spec, id, host));
  states.remove(id);
}

/** What is left to do at a container's end, for whoever attends it. */
function removal({ states }: CommandContext, { id, bundle, cgroup, host }: Creation): Plan {
  return {
    orders: [
      ...cgroupRemoval(cgroup, host).orders,
      ...intelRdtRemoval(bundle.spec, id, host).orders,
      { order: "remove_tree", args: { path: states.path(id) }, because: "delete" },
    ],
  };
}

/** bosun stops at the first order that fails: a poststop hook must not keep the rest from being removed, so they come last. */
export function atTheEnd(context: CommandContext, creation: Creation): Plan {
  const { orders } = removal(context, creation);
  const record = context.states.read(creation.id);
  return { orders: [...orders, ...hookPlan(record, "poststop", creation.bundle.directory).orders] };
}

export function writePidFile(path: string, pid: number): void {
  const absolute = resolve(path);
  const temporary = join(absolute, "..", `.${absolute.slice(absolute.lastIndexOf("/") + 1)}`);
  writeFileSync(temporary, String(pid), { mode: 0o666 });
  renameSync(temporary, absolute);
}

/** Two containers in one cgroup would be limited, frozen and killed together. Throws CommandError. */
function checkCgroup({ cgroup, host, unit }: Creation): void {
  for (const directory of new Set(Object.values(cgroupPaths(cgroup, host)))) {
    if (!existsSync(directory)) continue;
    // systemd starts no unit that is there already, and in a new one is who holds it.
    const found = unit === undefined ? processesBelow(directory).length : 0;
    if (found > 0) throw new CommandError(`container's cgroup is not empty: ${found} process(es) found`);
    if (isFrozen({ cgroup_paths: { freezer: directory } }) || isFrozen({ cgroup_paths: { "": directory } }))
      throw new CommandError("container's cgroup unexpectedly frozen");
  }
}

/** By v1 controller ("name=systemd" without the "name="), and "" for cgroup v2, as libcontainer has them. */
function cgroupPaths(cgroup: string, host: HostFacts): Record<string, string> {
  const { v1, unified } = cgroupDirectories(cgroup, host.cgroups);
  const paths: Record<string, string> = {};
  for (const { hierarchy, directory } of v1)
    for (const controller of hierarchy.controllers) paths[controller] = directory;
  if (unified !== undefined) paths[""] = unified;
  return paths;
}

const LIBCONTAINER_TYPES: Readonly<Record<oci.NamespaceType, string>> = {
  pid: "NEWPID",
  network: "NEWNET",
  mount: "NEWNS",
  ipc: "NEWIPC",
  uts: "NEWUTS",
  user: "NEWUSER",
  cgroup: "NEWCGROUP",
  time: "NEWTIME",
};

function recordOf({ flags }: CommandContext, creation: Creation, { pid, pidStart }: Launched): ContainerRecord {
  const { id, bundle, cgroup, host, rootless } = creation;
  const { spec, rootfs, directory } = bundle;
  const namespaces = spec.linux?.namespaces ?? [];
  const labels = Object.entries(spec.annotations ?? {}).map(([key, value]) => `${key}=${value}`);
  return {
    id,
    init_process_pid: pid,
    init_process_start: Number(pidStart),
    created: now(),
    config: {
      rootfs,
      version: spec.ociVersion,
      labels: [...labels, `bundle=${directory}`],
      ...(spec.hostname === undefined ? {} : { hostname: spec.hostname }),
      namespaces: namespaces.map(({ type, path = "" }) => ({ type: LIBCONTAINER_TYPES[type], path })),
      cgroups: { path: cgroup, systemd: creation.unit !== undefined },
    },
    rootless,
    cgroup_paths: cgroupPaths(cgroup, host),
    namespace_paths: Object.fromEntries(
      Object.entries(LIBCONTAINER_TYPES).map(([type, name]) => [
        name,
        `/proc/${pid}/ns/${NAMESPACE_FILES[type as oci.NamespaceType]}`,
      ]),
    ),
    external_descriptors: creation.detached ? [0, 1, 2].map((fd) => readlinkSync(`/proc/self/fd/${fd}`)) : [],
    intel_rdt_path: "",
    berth: {
      bundle: directory,
      cgroup,
      unit: creation.unit,
      spec: creation.restores === true ? withTimeNamespace(spec, pid) : spec,
      noNewKeyring: flags.boolean("no-new-keyring"),
    },
  };
}

/** RFC 3339 in UTC with nanoseconds, of which the clock that Node has gives milliseconds. */
function now(): string {
  return new Date().toISOString().replace("Z", "000000Z");
}
