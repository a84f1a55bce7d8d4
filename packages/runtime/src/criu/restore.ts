/** A restore: from CRIU's images to a container that is like any other. Pure, like planContainer. */
import { join } from "node:path";
import { cgroupDirectories, type CgroupCreation, CLONE, MS, NO_SLOT, type HostFacts, type Plan } from "@berth/kernel";
import { CgroupsMode, encodeRequest, RequestType, type Options } from "@berth/spec/criu";
import type { oci } from "@berth/spec";
import { PlanBuilder } from "../builder.ts";
import { addCgroup } from "../container.ts";
import { PlanError, type Planned, type Rootfs } from "../context.ts";
import { addHooks, has } from "../hooks.ts";
import { namespacesOf } from "../namespaces.ts";
import { cleanPath, CREATE, isBelow } from "../paths.ts";
import { intelRdt } from "../rdt.ts";
import { openRootfs } from "../rootfs.ts";
import { externalMounts, isBind, MASK, type ExternalMount } from "./external.ts";
import {
  cgroupsMode,
  commonOptions,
  CRIU,
  INHERITED,
  OPENED,
  openedPaths,
  type CriuOptions,
  type CriuPlace,
} from "./options.ts";

export interface RestoreOptions extends CriuOptions {
  /** TYPE:NAME. */
  readonly lsmProfile?: string | undefined;
  readonly lsmMountContext?: string | undefined;
}

export interface RestoreContext {
  readonly id: string;
  readonly bundle: string;
  readonly rootfs: Rootfs;
  /** A directory that is there: the root file system is mounted on it for CRIU alone. */
  readonly rootPlace: string;
  readonly cgroup: { readonly path: string };
  readonly host: HostFacts;
  readonly place: CriuPlace;
  /** What descriptors 0-2 were when it was dumped. */
  readonly descriptors: readonly string[];
  /** Other names of external mounts in the images: where their destinations lead in the root file system. */
  readonly resolved?: ReadonlyMap<string, string> | undefined;
  readonly options: RestoreOptions;
  readonly env: readonly string[];
}

export const RESTORE_LOG = "restore.log";

/** Up to `park` everything is restored but runs not yet. Throws PlanError. */
export function planRestore(spec: oci.Spec, context: RestoreContext): Planned {
  const plan = new PlanBuilder();
  const hooked = has(spec, "prestart") || has(spec, "createRuntime");
  if (hooked) plan.add("aside", {}, "hooks");
  const late = enterCgroup(plan, spec, context);
  intelRdt(plan, spec, context.id, context.host);
  mountRoot(plan, context);
  const inherited = inheritedNamespaces(spec);
  const source = { id: context.id, bundle: context.bundle, spec };
  plan.add(
    "criu",
    {
      argv: CRIU,
      env: context.env,
      request: encodeRequest(RequestType.RESTORE, restoreOptions(spec, context)),
      open: [...openedPaths(context.place), ...inherited.map(({ path }) => path)],
      stdio: 1,
      until: hooked ? "setup-namespaces" : "post-restore",
      status: "",
      timeoutMs: 0,
    },
    "restore",
  );
  if (hooked) {
    addHooks(plan, "prestart", source, "creating");
    addHooks(plan, "createRuntime", source, "creating");
    plan.add("criu_go_on", { until: "post-restore" }, "restore");
  }
  if (late !== undefined) plan.add("write_file", { path: late.file, data: Buffer.from(late.value) }, late.because);
  plan.add("park", {}, "restore");
  plan.add("criu_go_on", { until: "" }, "restore");
  return { plan: plan.plan(), warnings: plan.warnings };
}

/** The stage, and so CRIU, and so all that it restores. */
function enterCgroup(
  plan: PlanBuilder,
  spec: oci.Spec,
  { cgroup, host, options }: RestoreContext,
): CgroupCreation["late"] {
  const namespaces = namespacesOf(spec);
  const { slot, late } = addCgroup(plan, spec, { cgroup, host }, namespaces);
  if (slot !== undefined) {
    const { unified = "" } = cgroupDirectories(cgroup.path, host.cgroups);
    const data = Buffer.from("0");
    plan.add("write_file", { path: join(unified, "cgroup.procs"), data }, "linux.cgroupsPath");
    plan.add("close", { slot }, "linux.cgroupsPath");
  }
  // CRIU, where it is not to care for cgroups, makes no namespace of them either.
  if (namespaces.own.has("cgroup") && cgroupsMode(options.manageCgroupsMode) === CgroupsMode.IGNORE)
    plan.add("unshare", { flags: CLONE.NEWCGROUP }, "linux.namespaces (cgroup)");
  return late;
}

/** In a mount namespace of the stage's own, which is what CRIU starts from. */
function mountRoot(plan: PlanBuilder, { rootfs, host, rootPlace }: RestoreContext): void {
  const slot = openRootfs(plan, rootfs, host);
  plan.add("unshare", { flags: CLONE.NEWNS }, "root.path");
  plan.add("mount", { source: "", target: "/", fstype: "", flags: MS.SLAVE | MS.REC, data: "" }, "root.path");
  plan.add("attach_host", { slot, target: rootPlace }, "root.path");
  plan.add("close", { slot }, "root.path");
}

function restoreOptions(spec: oci.Spec, context: RestoreContext): Options {
  const { options, host, cgroup, rootPlace, descriptors } = context;
  const first = OPENED + openedPaths(context.place).length;
  return {
    ...commonOptions(spec, context.place, options, RESTORE_LOG),
    root: rootPlace,
    evasiveDevices: true,
    rstSibling: true,
    cgRoot: cgroupRoots(cgroup.path, host),
    joinNs: joinedNamespaces(spec),
    extMnt: mountSources(spec, context),
    inheritFd: [
      ...inheritedNamespaces(spec).map(({ key }, index) => ({ key, fd: first + index })),
      ...descriptors.flatMap((key, fd) => (key.startsWith("pipe:") ? [{ key, fd }] : [])),
    ],
    ...(options.lsmProfile ? { lsmProfile: options.lsmProfile } : {}),
    ...(options.lsmMountContext ? { lsmMountContext: options.lsmMountContext } : {}),
  };
}

function mountSources(spec: oci.Spec, { host, cgroup, resolved }: RestoreContext): { key: string; val: string }[] {
  const mounts: ExternalMount[] = externalMounts(spec, host, cgroup.path);
  if ((spec.linux?.maskedPaths ?? []).length > 0) mounts.push(MASK);
  const sources = new Map<string, string>();
  for (const { destination, source } of mounts) sources.set(resolved?.get(destination) ?? destination, source);
  for (const { destination, source } of mounts) sources.set(destination, source);
  return [...sources].map(([key, val]) => ({ key, val }));
}

/** By controller as /proc/PID/cgroup has them; "" for cgroup v2. */
function cgroupRoots(path: string, { cgroups }: HostFacts): { ctrl: string; path: string }[] {
  const names = cgroups.v1.flatMap(({ controllers }) => controllers);
  return [...names, ...(cgroups.unified === undefined ? [] : [""])].map((ctrl) => ({ ctrl, path }));
}

function joined(spec: oci.Spec) {
  return (spec.linux?.namespaces ?? []).flatMap(({ type, path }) =>
    path === undefined || path === "" ? [] : [{ type, path }],
  );
}

function inheritedNamespaces(spec: oci.Spec): { key: string; path: string }[] {
  return joined(spec).flatMap(({ type, path }) => {
    const as = INHERITED[type];
    return as === undefined ? [] : [{ key: as.key, path }];
  });
}

function joinedNamespaces(spec: oci.Spec): { ns: string; nsFile: string }[] {
  return joined(spec)
    .filter(({ type }) => INHERITED[type] === undefined)
    .map(({ type, path }) => {
      if (type === "cgroup" || type === "mount")
        throw new PlanError("linux.namespaces", `criu cannot restore into a ${type} namespace that is there already`);
      return { ns: type, nsFile: path };
    });
}

/**
 * Makes the mount points that a root file system may lack: a container that was dumped elsewhere had them made when it was created. In
 * a mount namespace of its own, with the binds in place, because some lie below others.
 */
export function planMountPoints(
  spec: oci.Spec,
  { rootfs, host, rootPlace }: Pick<RestoreContext, "rootfs" | "host" | "rootPlace">,
): Plan {
  const plan = new PlanBuilder();
  const slot = openRootfs(plan, rootfs, host);
  plan.add("unshare", { flags: CLONE.NEWNS }, "root.path");
  plan.add("mount", { source: "", target: "/", fstype: "", flags: MS.SLAVE | MS.REC, data: "" }, "root.path");
  const root = plan.slot("root.path");
  plan.add("attach_root", { slot, at: rootPlace, root }, "root.path");
  const mounts = spec.mounts ?? [];
  const fresh = mounts.filter(({ type }) => type === "tmpfs").map(({ destination }) => cleanPath(destination));
  for (const [index, mount] of mounts.entries()) {
    const target = cleanPath(mount.destination);
    // CRIU restores a tmpfs with all that is in it, and a cgroup's mount point comes with what it is below.
    if (mount.type === "cgroup" || fresh.some((directory) => isBelow(target, directory))) continue;
    if (isBelow(target, "/proc") || isBelow(target, "/sys")) continue;
    addMountPoint(plan, root, mount, target, `mounts[${index}]`);
  }
  return plan.plan();
}

function addMountPoint(plan: PlanBuilder, root: number, mount: oci.Mount, target: string, because: string): void {
  if (!isBind(mount)) {
    plan.add("mkdir_in", { root, path: target, mode: 0o755, uid: 0, gid: 0 }, because);
    return;
  }
  const slot = plan.slot(because);
  plan.add("open_tree", { slot, path: mount.source ?? "", recursive: 1 }, because);
  const attributes = { set: 0n, clear: 0n, propagation: MS.PRIVATE, recursive: 1, usernsSlot: NO_SLOT } as const;
  plan.add("mount_attr", { slot, ...attributes }, because);
  plan.add("move_mount", { slot, root, target, create: CREATE.likeSource, strict: 0 }, because);
  plan.add("close", { slot }, because);
}
