/**
 * An OCI configuration as a plan: every system call that makes the container, in order. Pure: the same arguments give the
 * same plan. The order of things is what runc, crun and their CVEs taught.
 */
import {
  CGROUP_SLOT,
  cgroupCreation,
  CLONE,
  idMapText,
  MOUNT_ATTR,
  NO_SLOT,
  O,
  ResourceError,
  sysctlFile,
  type HostFacts,
} from "@berth/kernel";
import { oci } from "@berth/spec/oci";
import { PlanBuilder } from "./builder.ts";
import { PlanError, type ContainerContext, type Planned } from "./context.ts";
import { makeDevices, prepareDevices } from "./devices.ts";
import { attachMounts, hasOwnDev, prepareMounts } from "./mounts.ts";
import {
  cloneFlags,
  joinNamespaces,
  namespacesOf,
  openNamespaces,
  timeNamespace,
  type Namespaces,
} from "./namespaces.ts";
import { cleanPath } from "./paths.ts";
import {
  becomeProcess,
  needsAppArmor,
  needsSelinux,
  rejectUnsupportedProcess,
  securityLabels,
  stageProcess,
  type ProcessContext,
} from "./process.ts";
import { openRootfs, rootPropagation } from "./rootfs.ts";

const PROC_ATTRS = MOUNT_ATTR.NOSUID | MOUNT_ATTR.NODEV | MOUNT_ATTR.NOEXEC;

/** The plan of a container's first process, up to `park` and from there to `exec`. Throws PlanError. */
export function planContainer(spec: oci.Spec, context: ContainerContext): Planned {
  const process = checkedProcess(spec);
  const namespaces = namespacesOf(spec);
  const inUserns = namespaces.all.has("user");
  const plan = new PlanBuilder();
  const processContext: ProcessContext = { host: context.host, inUserns, seccomp: context.seccomp };

  // The stage, in the host's namespaces.
  plan.add("dumpable", { value: 0 }, "CVE-2016-9962");
  const cgroupSlot = cgroup(plan, spec, context);
  stageProcess(plan, process, processContext);
  const rootfs = openRootfs(plan, context.rootfs, context.host);
  const slots = openNamespaces(plan, namespaces);
  const mounts = prepareMounts(plan, spec, {
    host: context.host,
    namespaces,
    cgroupPath: context.cgroup.path,
    usernsSlot: slots.get("user"),
  });
  const devices = hasOwnDev(mounts) ? prepareDevices(plan, spec, inUserns) : undefined;
  timeNamespace(plan, spec, namespaces);
  plan.add("enter_empty_mounts", {}, "few mounts to copy");
  joinNamespaces(plan, namespaces, slots);
  clone(plan, spec, namespaces, cgroupSlot);

  // The container's process, in its namespaces.
  if (cgroupSlot !== undefined) plan.add("close", { slot: cgroupSlot }, "linux.cgroupsPath");
  begin(plan, spec, namespaces, context.id);
  kernelSettings(plan, spec, process, namespaces, context.host);
  const root = plan.slot("root.path");
  plan.add("attach_root", { slot: rootfs, at: "/rootfs", root }, "root.path");
  const late = attachMounts(plan, mounts, root);
  if (devices !== undefined) makeDevices(plan, devices, root);
  if (context.terminal) openConsole(plan, process, context, root);
  plan.add("pivot", { root }, "root.path");
  rootPropagation(plan, spec);
  if (cleanPath(process.cwd) !== "/")
    plan.add("mkdir_in", { root, path: cleanPath(process.cwd), mode: 0o755, uid: 0, gid: 0 }, "process.cwd");
  for (const { slot, because } of late) readOnly(plan, slot, because);
  hidePaths(plan, spec, root);
  if (spec.root?.readonly) readOnly(plan, root, "root.readonly");
  becomeProcess(plan, process, processContext, true);
  return { plan: plan.plan(), warnings: plan.warnings };
}

function checkedProcess(spec: oci.Spec): oci.Process {
  const [problem] = oci.validateSpec(spec).errors;
  if (problem !== undefined) throw new PlanError(problem.field, problem.message);
  if (spec.process === undefined) throw new PlanError("process", "is missing: there is nothing to run");
  rejectUnsupported(spec);
  rejectUnsupportedProcess(spec.process);
  return spec.process;
}

/** What no order exists for yet. A container that silently lacks what was asked for would be another one. */
function rejectUnsupported(spec: oci.Spec): void {
  for (const [kind, hooks] of Object.entries(spec.hooks ?? {})) {
    if ((hooks as readonly oci.Hook[] | undefined)?.length)
      throw new PlanError(`hooks.${kind}`, "hooks are not supported by this version of berth");
  }
  const linux = spec.linux ?? {};
  if (Object.keys(linux.netDevices ?? {}).length > 0)
    throw new PlanError("linux.netDevices", "is not supported by this version of berth");
  if (linux.intelRdt !== undefined) throw new PlanError("linux.intelRdt", "is not supported by this version of berth");
  if (linux.memoryPolicy !== undefined)
    throw new PlanError("linux.memoryPolicy", "is not supported by this version of berth");
}

function cgroup(plan: PlanBuilder, spec: oci.Spec, context: ContainerContext): number | undefined {
  try {
    const { orders, warnings, slot } = cgroupCreation(
      context.cgroup.path,
      context.host,
      spec.linux?.resources,
      CGROUP_SLOT,
    );
    plan.addAll(orders);
    for (const warning of warnings) plan.warn(warning);
    return slot;
  } catch (error) {
    if (error instanceof ResourceError) throw new PlanError(error.field, error.message.slice(error.field.length + 2));
    throw error;
  }
}

function clone(plan: PlanBuilder, spec: oci.Spec, namespaces: Namespaces, cgroupSlot: number | undefined): void {
  const maps = namespaces.own.has("user");
  const { uidMappings = [], gidMappings = [] } = spec.linux ?? {};
  if (maps && (uidMappings.length === 0 || gidMappings.length === 0))
    throw new PlanError("linux.uidMappings", "a new user namespace needs uid and gid mappings");
  plan.add(
    "clone",
    {
      flags: cloneFlags(namespaces),
      cgroupSlot: cgroupSlot ?? NO_SLOT,
      uidMap: maps ? idMapText(uidMappings) : "",
      gidMap: maps ? idMapText(gidMappings) : "",
      denySetgroups: 0,
    },
    "linux.namespaces",
  );
}

/** The first things inside: who this process is, and that nobody in its namespaces may look into it yet. */
function begin(plan: PlanBuilder, spec: oci.Spec, namespaces: Namespaces, id: string): void {
  if (namespaces.joined.some(({ type }) => type === "user")) {
    // In a namespace that was joined this process is nobody; what it makes must belong to the container's root.
    plan.add("user", { uid: 0, gid: 0, groups: [], keepGroups: 1, chownStdio: 0 }, "linux.namespaces (user)");
  }
  plan.add("dumpable", { value: 0 }, "CVE-2016-9962");
  if (namespaces.own.has("cgroup")) plan.add("unshare", { flags: CLONE.NEWCGROUP }, "linux.namespaces (cgroup)");
  plan.add("setsid", {}, "its own session");
  plan.add("keyring", { name: `_ses.${id}` }, "its own session keyring");
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
function hidePaths(plan: PlanBuilder, spec: oci.Spec, root: number): void {
  const { maskedPaths = [], readonlyPaths = [] } = spec.linux ?? {};
  for (const path of readonlyPaths) plan.add("readonly", { root, path: cleanPath(path) }, "linux.readonlyPaths");
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
      options: ["nr_blocks=1", "nr_inodes=2"],
      attrs: PROC_ATTRS | MOUNT_ATTR.RDONLY,
      fdKeys: [],
      fdSlots: [],
    },
    "linux.maskedPaths",
  );
  for (const path of maskedPaths)
    plan.add("mask", { root, path: cleanPath(path), nullSlot, dirSlot }, "linux.maskedPaths");
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
