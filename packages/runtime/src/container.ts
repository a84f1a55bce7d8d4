/**
 * An OCI configuration as a plan: every system call that makes the container, in order. Pure: the same arguments give the
 * same plan. The order of things is what runc, crun and their CVEs taught.
 */
import { join } from "node:path";
import {
  cgroupCreation,
  cgroupDirectories,
  CGROUP_SLOT,
  CLONE,
  hostId,
  idMapText,
  MOUNT_ATTR,
  MS,
  NO_SLOT,
  O,
  ResourceError,
  sysctlFile,
  type CgroupCreation,
  type HostFacts,
} from "@berth/kernel";
import { oci } from "@berth/spec/oci";
import { mapsAside } from "./binds.ts";
import { PlanBuilder } from "./builder.ts";
import { PlanError, type ContainerContext, type Planned, type Rootfs, type WaitAt } from "./context.ts";
import { makeDevices, prepareDevices } from "./devices.ts";
import { addHooks, has, type StateSource } from "./hooks.ts";
import { addFilter, checkListener, listens } from "./listener.ts";
import { attachMounts, hasOwnDev, labelOption, prepareMounts } from "./mounts.ts";
import {
  cloneFlags,
  joinNamespaces,
  namespacesOf,
  openNamespaces,
  timeNamespace,
  type Namespaces,
} from "./namespaces.ts";
import { moveNetDevices } from "./netdevices.ts";
import { cleanPath } from "./paths.ts";
import {
  ALL_CPUS,
  becomeProcess,
  lookUpHome,
  needsAppArmor,
  needsSelinux,
  securityLabels,
  stageProcess,
  type Fifo,
  type ProcessContext,
} from "./process.ts";
import { intelRdt } from "./rdt.ts";
import { openRootfs, rootPropagation } from "./rootfs.ts";
import { checkRootless, enterUserNamespace, isConfined, ordinaryUser } from "./rootless.ts";

/** chown(2): leave as it is. */
const KEEP_ID = 0xffff_ffff;
const PROC_ATTRS = MOUNT_ATTR.NOSUID | MOUNT_ATTR.NODEV | MOUNT_ATTR.NOEXEC;

/** The plan of a container's first process, up to `park` and from there to `exec`. Throws PlanError. */
export function planContainer(spec: oci.Spec, context: ContainerContext): Planned {
  const process = checkedProcess(spec);
  const namespaces = namespacesOf(spec);
  const plan = new PlanBuilder();
  const source: StateSource = { id: context.id, bundle: context.bundle, spec };
  checkListener(plan, spec.linux?.seccomp);

  const ordinary = ordinaryUser(context.host);
  if (ordinary !== undefined) checkRootless(spec, namespaces, ordinary);

  // The stage, in the host's namespaces.
  const hide = () => plan.add("dumpable", { value: 0 }, "CVE-2016-9962");
  if (ordinary === undefined) hide();
  // Hooks of the runtime's namespaces run in the bundle.
  if (context.bundle !== undefined && (has(spec, "prestart") || has(spec, "createRuntime")))
    plan.add("chdir", { path: context.bundle, tolerate: 1 }, "hooks");
  if (needsAside(spec, context, namespaces)) plan.add("aside", {}, "hooks, seccomp's listener, mapped owners");
  const { slot: cgroupSlot, late } = addCgroup(plan, spec, context, namespaces);
  const lateSlot = late === undefined ? undefined : plan.slot(late.because);
  if (late !== undefined && lateSlot !== undefined)
    plan.add("open", { slot: lateSlot, path: late.file, flags: BigInt(O.WRONLY) }, late.because);
  intelRdt(plan, spec, context.id, context.host);
  const processContext: ProcessContext = {
    host: context.host,
    inUserns: namespaces.all.has("user"),
    preserveFds: context.preserveFds ?? 0,
    personality: spec.linux?.personality,
    memoryPolicy: spec.linux?.memoryPolicy,
    addSeccomp: () => {
      if (context.seccomp !== undefined)
        addFilter(
          plan,
          context.seccomp,
          spec.linux?.seccomp,
          source,
          undefined,
          ordinaryUser(context.host) !== undefined,
        );
    },
  };
  stageProcess(plan, process, processContext);
  makeFifo(plan, context.waitAt);
  if (ordinary !== undefined) enterUserNamespace(plan, spec, namespaces, ordinary);
  const made = stageMounts(plan, spec, context, namespaces);
  const fifo = openFifo(plan, context.waitAt);
  timeNamespace(plan, spec, namespaces);
  // Until here files of this process's own in /proc had to be written, which belong to root once it is not dumpable.
  if (ordinary !== undefined) hide();
  moveNetDevices(plan, spec, namespaces, made.slots);
  const at = rootfsPlace(plan, spec, context, namespaces);
  joinNamespaces(plan, namespaces, made.slots);
  clone(plan, spec, namespaces, cgroupSlot, ordinary !== undefined);

  // The container's process, in its namespaces.
  if (cgroupSlot !== undefined) plan.add("close", { slot: cgroupSlot }, "linux.cgroupsPath");
  begin(plan, spec, namespaces, context);
  kernelSettings(plan, spec, process, namespaces, context.host);
  const root = plan.slot("root.path");
  if (at.hostMounts)
    plan.add("mount", { source: "", target: "/", fstype: "", flags: MS.SLAVE | MS.REC, data: "" }, at.because);
  plan.add("attach_root", { slot: made.rootfs, at: at.path, root }, "root.path");
  const readOnlyLater = attachMounts(plan, made.mounts, root);
  if (made.devices !== undefined) makeDevices(plan, made.devices, root);
  addHooks(plan, "prestart", source, "creating");
  addHooks(plan, "createRuntime", source, "creating");
  if (has(spec, "createContainer")) plan.add("chdir", { path: at.path, tolerate: 0 }, "hooks.createContainer");
  addHooks(plan, "createContainer", source, "creating");
  if (context.terminal) openConsole(plan, process, context, root);
  plan.add(context.noPivot ? "move_root" : "pivot", { root }, "root.path");
  rootPropagation(plan, spec);
  // A checkpoint could not tell where the host's leads.
  plan.add("reopen_null", {}, "descriptors of the container's own");
  if (cleanPath(process.cwd) !== "/")
    plan.add("mkdir_in", { root, path: cleanPath(process.cwd), mode: 0o755, uid: 0, gid: 0 }, "process.cwd");
  for (const { slot, because } of readOnlyLater) readOnly(plan, slot, because);
  hidePaths(plan, spec, context.host, root);
  if (spec.root?.readonly) readOnly(plan, root, "root.readonly");
  lookUpHome(plan, process, root);
  if (late !== undefined && lateSlot !== undefined) {
    plan.add("write_slot", { slot: lateSlot, data: Buffer.from(late.value) }, late.because);
    plan.add("close", { slot: lateSlot }, late.because);
  }
  // Nobody else is in a PID namespace of its own who could look into it.
  const isJoinable = ordinary !== undefined && namespaces.own.has("pid");
  becomeProcess(plan, process, { ...processContext, fifo, isJoinable, checksProgram: context.checksProgram }, source);
  return { plan: plan.plan(), warnings: plan.warnings };
}

/** Descriptors that the stage opens, where the host's paths are in sight. */
function stageMounts(plan: PlanBuilder, spec: oci.Spec, context: ContainerContext, namespaces: Namespaces) {
  const { host } = context;
  const slots = openNamespaces(plan, namespaces, spec, ordinaryUser(host) !== undefined);
  const rootfs = openRootfs(plan, context.rootfs, host, slots.get("user"));
  const isLocked = namespaces.all.has("user") || isConfined(host);
  const mounts = prepareMounts(plan, spec, {
    host,
    namespaces,
    cgroup: context.cgroup,
    usernsSlot: slots.get("user"),
    mappings: namespaces.own.has("user") ? ownMappings(spec) : undefined,
    isLocked,
    rootfs: directoryOf(context.rootfs),
  });
  const devices = hasOwnDev(mounts) ? prepareDevices(plan, spec, isLocked) : undefined;
  return { rootfs, slots, mounts, devices };
}

function directoryOf(rootfs: Rootfs): string | undefined {
  return rootfs.kind === "path" ? rootfs.path : undefined;
}

function ownMappings({ linux }: oci.Spec) {
  return { uidMappings: linux?.uidMappings ?? [], gidMappings: linux?.gidMappings ?? [] };
}

/**
 * Where the rootfs is attached. Normally in a mount namespace that has nothing else: few mounts to copy, nothing of the host
 * in sight. Hooks that run in the container's namespace before the pivot are programs of the host, so they need its mounts;
 * and a mount namespace that is joined has what it has.
 */
function rootfsPlace(plan: PlanBuilder, spec: oci.Spec, context: ContainerContext, namespaces: Namespaces) {
  const joined = namespaces.joined.find(({ type }) => type === "mount");
  // A user namespace may mount a procfs only where it can see one.
  const isLimited = isConfined(context.host);
  if (joined === undefined && !has(spec, "createContainer") && !isLimited) {
    plan.add("enter_empty_mounts", {}, "few mounts to copy");
    return { path: "/rootfs", hostMounts: false, because: "" };
  }
  const path = hookRoot(spec, context);
  return {
    path,
    hostMounts: joined === undefined,
    because: joined?.because ?? (isLimited ? "root.path" : "hooks.createContainer"),
  };
}

/** Where hooks find the root: an overlay has a place only for them, the one that the bundle's configuration names. */
function hookRoot(spec: oci.Spec, { rootfs, bundle }: ContainerContext): string {
  if (rootfs.kind === "path") return rootfs.path;
  if (bundle === undefined) return rootfs.lowers[0] ?? "";
  const path = spec.root?.path ?? "rootfs";
  return path.startsWith("/") ? path : `${bundle}/${path}`;
}

function needsAside(spec: oci.Spec, context: ContainerContext, namespaces: Namespaces): boolean {
  if (mapsAside(spec, directoryOf(context.rootfs), namespaces)) return true;
  const heard = context.seccomp !== undefined && listens(spec.linux?.seccomp);
  return heard || has(spec, "prestart") || has(spec, "createRuntime");
}

function makeFifo(plan: PlanBuilder, waitAt: WaitAt | undefined): void {
  if (waitAt === undefined) return;
  const { directory, fifo, uid, gid } = waitAt;
  plan.add("make_fifo", { path: join(directory, fifo), mode: 0o622, uid, gid }, "start");
}

/** The state directory comes along as a mount of its own, so that ".." leads nowhere. */
function openFifo(plan: PlanBuilder, waitAt: WaitAt | undefined): Fifo | undefined {
  if (waitAt === undefined) return undefined;
  const { directory, fifo: name } = waitAt;
  const slot = plan.slot("start");
  plan.add("open_tree", { slot, path: directory, recursive: 0 }, "start");
  return { slot, name };
}

function checkedProcess(spec: oci.Spec): oci.Process {
  const [problem] = oci.validateSpec(spec).errors;
  if (problem !== undefined) throw new PlanError(problem.field, problem.message);
  if (spec.process === undefined) throw new PlanError("process", "is missing: there is nothing to run");
  return spec.process;
}

/** The container's cgroup, made and, where it is v1's, joined. On v2 the slot of its directory, to be born in. */
export function addCgroup(
  plan: PlanBuilder,
  spec: oci.Spec,
  context: Pick<ContainerContext, "cgroup" | "host">,
  namespaces: Namespaces,
): Pick<CgroupCreation, "slot" | "late"> {
  try {
    const { orders, warnings, slot, late } = cgroupCreation(
      context.cgroup.path,
      context.host,
      spec.linux?.resources,
      CGROUP_SLOT,
    );
    plan.addAll(orders);
    for (const warning of warnings) plan.warn(warning);
    delegateCgroup(plan, spec, context, namespaces);
    return { slot, late };
  } catch (error) {
    if (error instanceof ResourceError) throw new PlanError(error.field, error.message.slice(error.field.length + 2));
    throw error;
  }
}

/**
 * A container that may write to its own v2 cgroup must own the files that are safe to give away (cgroups(7), "Cgroup
 * delegation"): only with a cgroup namespace of its own and a writable cgroup mount.
 */
function delegateCgroup(
  plan: PlanBuilder,
  spec: oci.Spec,
  context: Pick<ContainerContext, "cgroup" | "host">,
  namespaces: Namespaces,
): void {
  const { mode, unified, delegate = [] } = context.host.cgroups;
  const mount = (spec.mounts ?? []).find(({ type }) => type === "cgroup" || type === "cgroup2");
  if (mode !== "v2" || unified === undefined || !namespaces.own.has("cgroup") || mount === undefined) return;
  if ((mount.options ?? []).includes("ro")) return;
  const inside = spec.process?.user.uid ?? 0;
  const uid = namespaces.own.has("user") ? hostId(spec.linux?.uidMappings ?? [], inside) : inside;
  if (uid === undefined || uid === 0) return;
  const directory = cgroupDirectories(context.cgroup.path, context.host.cgroups).unified ?? "";
  plan.add("chown", { directory, files: ["", ...delegate], uid, gid: KEEP_ID }, "linux.cgroupsPath");
}

/** `isEntered`: the stage is in the user namespace already. */
function clone(
  plan: PlanBuilder,
  spec: oci.Spec,
  namespaces: Namespaces,
  cgroupSlot: number | undefined,
  isEntered: boolean,
): void {
  const maps = namespaces.own.has("user") && !isEntered;
  const { uidMappings = [], gidMappings = [] } = spec.linux ?? {};
  if (maps && (uidMappings.length === 0 || gidMappings.length === 0))
    throw new PlanError("linux.uidMappings", "a new user namespace needs uid and gid mappings");
  plan.add(
    "clone",
    {
      flags: cloneFlags(namespaces) & ~(isEntered ? CLONE.NEWUSER : 0n),
      cgroupSlot: cgroupSlot ?? NO_SLOT,
      uidMap: maps ? idMapText(uidMappings) : "",
      gidMap: maps ? idMapText(gidMappings) : "",
      denySetgroups: 0,
    },
    "linux.namespaces",
  );
}

/** The first things inside: who this process is, and that nobody in its namespaces may look into it yet. */
function begin(plan: PlanBuilder, spec: oci.Spec, namespaces: Namespaces, context: ContainerContext): void {
  if (namespaces.joined.some(({ type }) => type === "user")) {
    // In a namespace that was joined this process is nobody; what it makes must belong to the container's root.
    plan.add("user", { uid: 0, gid: 0, groups: [], keepGroups: 1, chownStdio: 0 }, "linux.namespaces (user)");
  }
  plan.add("dumpable", { value: 0 }, "CVE-2016-9962");
  if (namespaces.own.has("cgroup")) plan.add("unshare", { flags: CLONE.NEWCGROUP }, "linux.namespaces (cgroup)");
  plan.add("setsid", {}, "its own session");
  plan.add("affinity", { mask: ALL_CPUS }, "every CPU of its cgroup");
  if (!context.noNewKeyring) plan.add("keyring", { name: `_ses.${context.id}` }, "its own session keyring");
  plan.add("umask", { mask: 0 }, "modes as configured");
  if (namespaces.own.has("network")) plan.add("link_up", { name: "lo" }, "linux.namespaces (network)");
  hostname(plan, spec, namespaces);
}

function hostname(plan: PlanBuilder, spec: oci.Spec, namespaces: Namespaces): void {
  const { hostname: host = "", domainname = "" } = spec;
  if (host === "" && domainname === "") return;
  const field = host === "" ? "domainname" : "hostname";
  if (!namespaces.all.has("uts")) throw new PlanError(field, "needs a uts namespace: it would change the host's");
  plan.add("hostname", { hostname: host, domainname }, field);
}

/** Sysctls and security labels, through a procfs of this process's own that the container never sees (CVE-2025-52881). */
function kernelSettings(
  plan: PlanBuilder,
  spec: oci.Spec,
  process: oci.Process,
  namespaces: Namespaces,
  host: HostFacts,
): void {
  const sysctls = Object.entries(spec.linux?.sysctl ?? {});
  if (sysctls.length === 0 && !needsAppArmor(process, host) && !needsSelinux(process, host)) return;
  const because = sysctls.length > 0 ? "linux.sysctl" : "process.apparmorProfile";
  const proc = plan.slot(because);
  plan.add(
    "fs_mount",
    { slot: proc, fstype: "proc", source: "proc", options: [], attrs: PROC_ATTRS, fdKeys: [], fdSlots: [] },
    because,
  );
  for (const [name, value] of sysctls) {
    const field = `linux.sysctl[${JSON.stringify(name)}]`;
    const file = sysctlFile(name, namespaces.all);
    if ("error" in file) throw new PlanError(field, file.error);
    plan.add("write_proc", { slot: proc, path: file.path, data: Buffer.from(value) }, field);
  }
  securityLabels(plan, process, host, proc);
  plan.add("close", { slot: proc }, because);
}

function openConsole(plan: PlanBuilder, process: oci.Process, context: ContainerContext, root: number): void {
  const size = context.consoleSize ?? process.consoleSize;
  plan.add("console", { root, rows: size?.height ?? 0, columns: size?.width ?? 0, bindConsole: 1 }, "process.terminal");
}

/**
 * Masked and read-only paths. The null device is the container's own, opened once and checked (CVE-2025-31133): what is
 * bound is that descriptor, not whatever the path leads to by then.
 */
function hidePaths(plan: PlanBuilder, spec: oci.Spec, host: HostFacts, root: number): void {
  const { maskedPaths = [], readonlyPaths = [] } = spec.linux ?? {};
  for (const path of new Set(readonlyPaths.map(cleanPath))) plan.add("readonly", { root, path }, "linux.readonlyPaths");
  if (maskedPaths.length === 0) return;
  const nullSlot = plan.slot("linux.maskedPaths");
  const dirSlot = plan.slot("linux.maskedPaths");
  plan.add("open", { slot: nullSlot, path: "/dev/null", flags: BigInt(O.PATH | O.NOFOLLOW) }, "linux.maskedPaths");
  plan.add("check_device", { slot: nullSlot, major: 1, minor: 3 }, "CVE-2025-31133");
  plan.add(
    "fs_mount",
    {
      slot: dirSlot,
      fstype: "tmpfs",
      source: "tmpfs",
      options: ["nr_blocks=1", "nr_inodes=2", ...labelOption("tmpfs", spec, host)],
      attrs: PROC_ATTRS | MOUNT_ATTR.RDONLY,
      fdKeys: [],
      fdSlots: [],
    },
    "linux.maskedPaths",
  );
  for (const path of new Set(maskedPaths.map(cleanPath)))
    plan.add("mask", { root, path, nullSlot, dirSlot }, "linux.maskedPaths");
  plan.add("close", { slot: nullSlot }, "linux.maskedPaths");
  plan.add("close", { slot: dirSlot }, "linux.maskedPaths");
}

function readOnly(plan: PlanBuilder, slot: number, because: string): void {
  plan.add(
    "mount_attr",
    { slot, set: MOUNT_ATTR.RDONLY, clear: 0n, propagation: 0n, recursive: 0, usernsSlot: NO_SLOT },
    because,
  );
}
