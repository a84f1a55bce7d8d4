/**
 * Bind mounts: cloned in the stage, where the host's paths are in sight, with all their attributes; those of what an earlier mount
 * of the same container covers are cloned inside, when that is there.
 */
import { fileSystemData, idMapText, MOUNT_ATTR, MS, NO_SLOT, type HostFacts, type MountOptions } from "@berth/kernel";
import type { oci } from "@berth/spec";
import type { PlanBuilder } from "./builder.ts";
import { PlanError, type ContainerContext } from "./context.ts";
import type { Namespaces } from "./namespaces.ts";
import { cleanPath, CREATE, isBelow } from "./paths.ts";

interface Mappings {
  readonly uidMappings: readonly oci.LinuxIdMapping[];
  readonly gidMappings: readonly oci.LinuxIdMapping[];
}

export interface MountContext {
  readonly host: HostFacts;
  readonly namespaces: Namespaces;
  readonly cgroup: ContainerContext["cgroup"];
  /** Of the user namespace that is joined, for id-mapped mounts. */
  readonly usernsSlot: number | undefined;
  /** Of the one that is made. */
  readonly mappings: Mappings | undefined;
  /** In a user namespace nothing is taken away from what a mount's source has. */
  readonly isLocked: boolean;
  /** The root file system's place on the host, where it is a directory. */
  readonly rootfs: string | undefined;
}

export function prepareBind(
  plan: PlanBuilder,
  mount: oci.Mount,
  options: MountOptions,
  because: string,
  context: MountContext,
): number {
  const source = mount.source ?? "";
  if (!source.startsWith("/"))
    throw new PlanError(`${because}.source`, `${JSON.stringify(source)} is not an absolute path of the host`);
  checkBindOptions(options, because);
  const slot = plan.slot(because);
  const recursive = isRecursive(mount, options);
  plan.add("open_tree", { slot, path: source, recursive }, because);
  bindPropagation(plan, slot, options, recursive, because);
  attributes(plan, slot, options, because, context.isLocked);
  const idmap = openIdmap(plan, mount, options, because, context);
  if (idmap !== undefined) {
    plan.add("mount_attr", { slot, ...NO_CHANGE, set: MOUNT_ATTR.IDMAP, ...idmap }, because);
    if (idmap.usernsSlot !== context.usernsSlot) plan.add("close", { slot: idmap.usernsSlot }, because);
  }
  return slot;
}

function checkBindOptions(options: MountOptions, because: string): void {
  const data = fileSystemData(options.data);
  if (data.length > 0)
    throw new PlanError(`${because}.options`, `${data.join(",")}: a bind mount takes no options of a file system`);
}

function isRecursive(mount: oci.Mount, options: MountOptions): 0 | 1 {
  return options.bind === "rbind" || mount.type === "rbind" ? 1 : 0;
}

/** For `mount_attr`. */
const NO_CHANGE = { set: 0n, clear: 0n, propagation: 0n } as const;

export interface InnerBind {
  /** In the container. */
  readonly source: string;
  readonly recursive: 0 | 1;
  readonly idmap: Idmap | undefined;
  /** In a user namespace of its own the container's process may not map owners. */
  readonly isMappedAside: boolean;
  readonly isLocked: boolean;
}

export function prepareInner(
  plan: PlanBuilder,
  mount: oci.Mount,
  source: string,
  options: MountOptions,
  because: string,
  context: MountContext,
): { readonly slot: number; readonly inner: InnerBind } {
  checkBindOptions(options, because);
  const idmap = openIdmap(plan, mount, options, because, context);
  return {
    slot: plan.slot(because),
    inner: {
      source,
      recursive: isRecursive(mount, options),
      idmap,
      isMappedAside: context.namespaces.all.has("user"),
      isLocked: context.isLocked,
    },
  };
}

/** Whether some mount's owners can only be mapped by the process that is set aside (idmap_aside). */
export function mapsAside({ mounts = [] }: oci.Spec, rootfs: string | undefined, namespaces: Namespaces): boolean {
  const isMapped = (mount: oci.Mount) =>
    mount.uidMappings !== undefined || (mount.options ?? []).some((one) => one === "idmap" || one === "ridmap");
  return (
    namespaces.all.has("user") &&
    mounts.some((mount) => isMapped(mount) && inRootfs(rootfs, mount.source ?? "") !== undefined)
  );
}

/** A path of the host as the container sees it; undefined: it is not in the root file system. */
export function inRootfs(rootfs: string | undefined, path: string): string | undefined {
  if (rootfs === undefined || rootfs === "/") return undefined;
  const clean = cleanPath(path);
  if (clean === rootfs) return "/";
  return path.startsWith("/") && isBelow(clean, rootfs) ? clean.slice(rootfs.length) : undefined;
}

/** Orders inside. */
export function attachInner(
  plan: PlanBuilder,
  at: { readonly slot: number; readonly target: string; readonly strict: number; readonly because: string },
  inner: InnerBind,
  options: MountOptions,
  root: number,
): void {
  const { slot, target, strict, because } = at;
  const { source, recursive, idmap, isMappedAside, isLocked } = inner;
  plan.add("clone_in", { slot, root, path: source, recursive }, because);
  bindPropagation(plan, slot, options, recursive, because);
  attributes(plan, slot, options, because, isLocked);
  if (idmap !== undefined && isMappedAside) plan.add("idmap_aside", { slot, ...idmap }, because);
  else if (idmap !== undefined)
    plan.add("mount_attr", { slot, ...NO_CHANGE, set: MOUNT_ATTR.IDMAP, ...idmap }, because);
  plan.add("move_mount", { slot, root, target, create: CREATE.likeSource, strict }, because);
  plan.add("close", { slot }, because);
}

/** Unless it is to be shared with the host, nothing that the container mounts may get out: a slave first. */
function bindPropagation(
  plan: PlanBuilder,
  slot: number,
  options: MountOptions,
  recursive: number,
  because: string,
): void {
  const wanted = options.propagation;
  const set = (propagation: bigint, all: number) =>
    plan.add("mount_attr", { slot, set: 0n, clear: 0n, propagation, recursive: all, usernsSlot: NO_SLOT }, because);
  const coversAll = wanted !== undefined && (wanted.recursive || recursive === 0);
  if (wanted?.flag !== MS.SHARED && !(coversAll && wanted.flag !== MS.UNBINDABLE)) set(MS.SLAVE, recursive);
  if (wanted !== undefined && !(wanted.flag === MS.SLAVE && !coversAll)) set(wanted.flag, wanted.recursive ? 1 : 0);
}

/** `isLocked`: a user namespace's container gets no more of a mount than its source gives. */
function attributes(plan: PlanBuilder, slot: number, options: MountOptions, because: string, isLocked: boolean): void {
  const { change } = options;
  if (change !== undefined && isLocked) plan.add("mount_attr_locked", { slot, ...change }, because);
  else if (change !== undefined) {
    const { set, clear } = change;
    plan.add("mount_attr", { slot, set, clear, propagation: 0n, recursive: 0, usernsSlot: NO_SLOT }, because);
  }
  if (options.recursiveSet !== 0n || options.recursiveClear !== 0n) {
    plan.add(
      "mount_attr",
      {
        slot,
        set: options.recursiveSet,
        clear: options.recursiveClear,
        propagation: 0n,
        recursive: 1,
        usernsSlot: NO_SLOT,
      },
      because,
    );
  }
}

interface Idmap {
  readonly usernsSlot: number;
  readonly recursive: 0 | 1;
}

/** By the mount's own mappings, else by the container's user namespace: the one that is joined, or one with the same maps. */
function openIdmap(
  plan: PlanBuilder,
  mount: oci.Mount,
  options: MountOptions,
  because: string,
  context: MountContext,
): Idmap | undefined {
  const { uidMappings, gidMappings } = mount;
  const own = uidMappings !== undefined && gidMappings !== undefined;
  if (options.idmap === "none" && !own) return undefined;
  const recursive = options.idmap === "ridmap" ? 1 : 0;
  if (!own && context.usernsSlot !== undefined) return { usernsSlot: context.usernsSlot, recursive };
  const maps = own ? { uidMappings, gidMappings } : context.mappings;
  if (maps === undefined)
    throw new PlanError(
      `${because}.options`,
      `${options.idmap} needs uidMappings and gidMappings, or a user namespace`,
    );
  const usernsSlot = plan.slot(because);
  const texts = { uidMap: idMapText(maps.uidMappings), gidMap: idMapText(maps.gidMappings) };
  plan.add("userns", { slot: usernsSlot, ...texts }, because);
  return { usernsSlot, recursive };
}
