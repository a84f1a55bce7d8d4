/**
 * The configured mounts. Binds are cloned in the stage (binds.ts); new file systems are made inside, where their namespaces are. Both
 * are attached inside, in the configuration's order.
 */
import { MOUNT_ATTR, MS, NO_SLOT, parseMountOptions, type HostFacts, type MountOptions } from "@berth/kernel";
import type { oci } from "@berth/spec";
import type { PlanBuilder } from "./builder.ts";
import { mountCgroups, prepareCgroups, type PreparedCgroups } from "./cgroup-mount.ts";
import { PlanError } from "./context.ts";
import { attachInner, inRootfs, prepareBind, prepareInner, type InnerBind, type MountContext } from "./binds.ts";
import { cleanPath, CREATE, isBelow } from "./paths.ts";

export type PreparedMount = {
  readonly mount: oci.Mount;
  readonly target: string;
  readonly options: MountOptions;
  readonly because: string;
} & (
  | { readonly kind: "bind"; readonly slot: number }
  /** Of a path that an earlier mount of the container covers: cloned when that is there. */
  | { readonly kind: "inner"; readonly slot: number; readonly inner: InnerBind }
  | { readonly kind: "new"; readonly fstype: string; readonly data: readonly string[] }
  | { readonly kind: "cgroup"; readonly cgroups: PreparedCgroups }
);

/** Orders of the stage; what it returns is attached by attachMounts. Throws PlanError. */
export function prepareMounts(plan: PlanBuilder, spec: oci.Spec, context: MountContext): PreparedMount[] {
  const targets: string[] = [];
  return (spec.mounts ?? []).map((mount, index) => {
    const prepared = prepareMount(plan, mount, `mounts[${index}]`, spec, { ...context, targets });
    targets.push(prepared.target);
    return prepared;
  });
}

function prepareMount(
  plan: PlanBuilder,
  mount: oci.Mount,
  because: string,
  spec: oci.Spec,
  context: MountContext & { readonly targets: readonly string[] },
): PreparedMount {
  const options = parseMountOptions(mount.options ?? []);
  // As runc has it, a destination may be told by its place on the host.
  const target = inRootfs(context.rootfs, mount.destination) ?? cleanPath(mount.destination);
  const isBind = options.bind !== "none" || mount.type === "bind" || mount.type === "rbind";
  checkDestination(mount, target, isBind, because);
  if (options.tmpcopyup && mount.type !== "tmpfs")
    throw new PlanError(`${because}.options`, "tmpcopyup is for tmpfs mounts");
  const common = { mount, target, options, because };
  if (isBind) {
    const source = inRootfs(context.rootfs, mount.source ?? "");
    if (
      source !== undefined &&
      context.targets.some((one) => one === source || isBelow(source, one) || isBelow(one, source))
    )
      return { ...common, kind: "inner", ...prepareInner(plan, mount, source, options, because, context) };
    return { ...common, kind: "bind", slot: prepareBind(plan, mount, options, because, context) };
  }
  if (options.idmap !== "none" || mount.uidMappings !== undefined || mount.gidMappings !== undefined) {
    throw new PlanError(`${because}.options`, "id mapping is for bind mounts");
  }
  if (mount.type === undefined || mount.type === "")
    throw new PlanError(`${because}.type`, "is missing; only bind mounts have none");
  if (mount.type === "cgroup")
    return {
      ...common,
      kind: "cgroup",
      cgroups: prepareCgroups(plan, options, because, context.host, context.cgroup),
    };
  // The network namespace's owner alone may mount a sysfs of it: with the host's, in a user namespace, its own is shown.
  if (mount.type === "sysfs" && context.namespaces.all.has("user") && !context.namespaces.all.has("network")) {
    return {
      ...common,
      kind: "bind",
      slot: prepareBind(plan, { ...mount, source: "/sys" }, { ...options, bind: "rbind", data: [] }, because, context),
    };
  }
  const data = [...options.data, ...labelOption(mount.type, spec, context.host)];
  if (isOfTheHost(mount.type) && !context.namespaces.all.has("user"))
    return { ...common, kind: "bind", slot: mountOnHost(plan, mount, mount.type, data, options, because) };
  return { ...common, kind: "new", fstype: mount.type, data };
}

/** File systems that are made of a namespace, or of nothing; all others have a source, which is a path of the host. */
const MADE_INSIDE = new Set(["proc", "sysfs", "tmpfs", "ramfs", "devpts", "mqueue", "cgroup2", "bpf", "binfmt_misc"]);
const WITHOUT_SOURCE = new Set(["debugfs", "tracefs", "securityfs", "pstore", "configfs", "efivarfs", "hugetlbfs"]);

function isOfTheHost(type: string): boolean {
  return !MADE_INSIDE.has(type) && !WITHOUT_SOURCE.has(type);
}

/** In the stage, where the source's path is in sight. In a user namespace the kernel is left to refuse it. */
function mountOnHost(
  plan: PlanBuilder,
  mount: oci.Mount,
  fstype: string,
  data: readonly string[],
  options: MountOptions,
  because: string,
): number {
  const slot = plan.slot(because);
  const attrs = options.set | options.recursiveSet;
  const source = mount.source ?? "";
  plan.add("fs_mount", { slot, fstype, source, options: data, attrs, fdKeys: [], fdSlots: [] }, because);
  const propagation = options.propagation?.flag ?? MS.PRIVATE;
  plan.add("mount_attr", { slot, set: 0n, clear: 0n, propagation, recursive: 0, usernsSlot: NO_SLOT }, because);
  return slot;
}

/** Files below /proc that lxcfs and the like replace; everything else there would fool whoever trusts /proc. */
const PROC_FILES = new Set([
  "/proc/cpuinfo",
  "/proc/diskstats",
  "/proc/meminfo",
  "/proc/stat",
  "/proc/swaps",
  "/proc/uptime",
  "/proc/loadavg",
  "/proc/slabinfo",
  "/proc/net/dev",
  "/proc/sys/kernel/ns_last_pid",
  "/proc/sys/crypto/fips_enabled",
]);

/** CVE-2019-16884, CVE-2019-19921, CVE-2023-27561. */
function checkDestination(mount: oci.Mount, target: string, isBind: boolean, because: string): void {
  const field = `${because}.destination`;
  if (target === "/") throw new PlanError(field, "a mount over the root file system itself is not possible");
  if (isBelow(target, "/proc") && !PROC_FILES.has(target))
    throw new PlanError(field, `${target} is inside /proc, where only ${[...PROC_FILES].join(", ")} may be covered`);
  if (target !== "/proc" || mount.type === "proc") return;
  if (!isBind || cleanPath(mount.source ?? "") !== "/proc")
    throw new PlanError(field, "only a procfs may be mounted at /proc");
}

/** Of which the kernel has one for all, or for a namespace, labelled already: a mount of it with another label is EINVAL. */
const UNLABELLED = new Set(["proc", "sysfs", "cgroup", "cgroup2", "mqueue"]);

/** `linux.mountLabel` for a new file system of a type. */
export function labelOption(type: string, spec: oci.Spec, host: HostFacts): string[] {
  const label = spec.linux?.mountLabel ?? "";
  return label !== "" && host.selinux && !UNLABELLED.has(type) ? [`context=${label}`] : [];
}

/** Attaches all, in order. Returns what is to become read-only when nothing is left to be made inside it. */
export function attachMounts(plan: PlanBuilder, mounts: readonly PreparedMount[], root: number): LateAttributes[] {
  const scratch = plan.slot("mounts");
  const late: LateAttributes[] = [];
  for (const [index, prepared] of mounts.entries()) {
    const inside =
      mounts.slice(index + 1).some(({ target }) => isBelow(target, prepared.target)) || prepared.target === "/dev";
    attachMount(plan, prepared, root, scratch, inside ? late : undefined);
  }
  return late;
}

export interface LateAttributes {
  readonly slot: number;
  readonly because: string;
}

/** Bits of move_mount's `strict`. */
const NO_LINKS = 1;
const ON_PROCFS = 2;

/** checkDestination has seen to what is below /proc. */
function strictness(target: string): number {
  if (target === "/sys") return NO_LINKS;
  if (target === "/proc") return NO_LINKS | ON_PROCFS;
  // /proc/net is a link of the kernel's own.
  return isBelow(target, "/proc") ? ON_PROCFS : 0;
}

/** `late`: where a read-only mount that others are made in is to be noted; such a slot is not used again. */
function attachMount(
  plan: PlanBuilder,
  prepared: PreparedMount,
  root: number,
  scratch: number,
  late: LateAttributes[] | undefined,
): void {
  const { target, because } = prepared;
  const strict = strictness(target);
  switch (prepared.kind) {
    case "bind":
      plan.add("move_mount", { slot: prepared.slot, root, target, create: CREATE.likeSource, strict }, because);
      plan.add("close", { slot: prepared.slot }, because);
      return;
    case "inner":
      attachInner(plan, { slot: prepared.slot, target, strict, because }, prepared.inner, prepared.options, root);
      return;
    case "cgroup":
      mountCgroups(plan, prepared.cgroups, target, prepared.options, root, scratch, because);
      return;
    case "new":
      attachNew(plan, prepared, root, scratch, strict, late);
  }
}

function attachNew(
  plan: PlanBuilder,
  prepared: Extract<PreparedMount, { kind: "new" }>,
  root: number,
  scratch: number,
  strict: number,
  late: LateAttributes[] | undefined,
): void {
  const { mount, target, options, because, fstype, data } = prepared;
  const isReadOnly = ((options.set | options.recursiveSet) & MOUNT_ATTR.RDONLY) !== 0n;
  const waits = late !== undefined && fstype === "tmpfs" && isReadOnly;
  const slot = waits ? plan.slot(because) : scratch;
  const copies = options.tmpcopyup;
  const attrs = (options.set | options.recursiveSet) & ~(waits || copies ? MOUNT_ATTR.RDONLY : 0n);
  const source = mount.source ?? "";
  if (fstype === "tmpfs" && !data.some((option) => option.startsWith("mode=")))
    plan.add("tmpfs_like", { slot, source, options: data, attrs, root, path: target }, because);
  else plan.add("fs_mount", { slot, fstype, source, options: data, attrs, fdKeys: [], fdSlots: [] }, because);
  if (copies) plan.add("copy_up", { slot, root, path: target }, because);
  if (copies && isReadOnly && !waits) {
    plan.add(
      "mount_attr",
      { slot, set: MOUNT_ATTR.RDONLY, clear: 0n, propagation: 0n, recursive: 0, usernsSlot: NO_SLOT },
      because,
    );
  }
  if (options.propagation !== undefined) {
    plan.add(
      "mount_attr",
      { slot, set: 0n, clear: 0n, propagation: options.propagation.flag, recursive: 0, usernsSlot: NO_SLOT },
      because,
    );
  }
  plan.add("move_mount", { slot, root, target, create: CREATE.directory, strict }, because);
  if (waits) late.push({ slot, because });
}

/** Whether the container has a /dev of its own to fill (and not the host's, or another's). */
export function hasOwnDev(mounts: readonly PreparedMount[]): boolean {
  return !mounts.some(({ kind, target }) => (kind === "bind" || kind === "inner") && target === "/dev");
}
