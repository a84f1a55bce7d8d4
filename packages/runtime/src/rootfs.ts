/** The root file system: as a detached mount made in the stage, from a directory or as an overlay. */
import { CLONE, MNT_DETACH, MOUNT_ATTR, MS, NO_SLOT, O, type HostFacts, type Plan } from "@berth/kernel";
import type { oci } from "@berth/spec";
import { PlanBuilder } from "./builder.ts";
import { PlanError, type Rootfs } from "./context.ts";

const BECAUSE = "root.path";
/** fsconfig(2) takes texts of less than this. */
const FSCONFIG_TEXT = 256;
/** mount(2) takes data of less than a page. */
const MOUNT_DATA = 4096;
/** Layers that overlayfs stacks (OVL_MAX_STACK). */
const MOST_LAYERS = 500;

type Overlay = Extract<Rootfs, { kind: "overlay" }>;

/** Makes the detached mount in a slot. `usernsSlot`: of the user namespace that is joined. Throws PlanError. */
export function openRootfs(plan: PlanBuilder, rootfs: Rootfs, host: HostFacts, usernsSlot?: number): number {
  const slot = plan.slot(BECAUSE);
  if (rootfs.kind === "path") {
    openTree(plan, slot, rootfs.path, 1);
    if (rootfs.idmap) mapOwners(plan, slot, idmapSlot(host, usernsSlot));
  } else if (rootfs.idmap) overlayByDescriptor(plan, slot, rootfs, host, idmapSlot(host, usernsSlot));
  else openOverlay(plan, slot, rootfs, host);
  return slot;
}

/** Overlayfs itself cannot be id-mapped (EINVAL); its layers can, as detached mounts that are given by descriptor. */
function idmapSlot(host: HostFacts, usernsSlot: number | undefined): number {
  if (!host.features.lowerdirFd || !host.features.mountSetattr) {
    const why = `overlayfs takes id-mapped layers by descriptor since Linux 6.13, and this is ${host.kernel.release}`;
    throw new PlanError(BECAUSE, `an id-mapped root file system: ${why}`);
  }
  if (usernsSlot === undefined)
    throw new PlanError(BECAUSE, "an id-mapped root file system needs a user namespace that is joined by path");
  return usernsSlot;
}

/** As a slave: what the host mounts below it later arrives, what the container mounts does not get out. */
function openTree(plan: PlanBuilder, slot: number, path: string, recursive: number): void {
  plan.add("open_tree", { slot, path, recursive }, BECAUSE);
  plan.add(
    "mount_attr",
    { slot, set: 0n, clear: 0n, propagation: MS.SLAVE, recursive: 1, usernsSlot: NO_SLOT },
    BECAUSE,
  );
}

function openOverlay(plan: PlanBuilder, slot: number, overlay: Overlay, host: HostFacts): void {
  const { lowers, upper } = overlay;
  const [only] = lowers;
  if (only === undefined) throw new PlanError(BECAUSE, "an overlay needs at least one layer");
  if (lowers.length > MOST_LAYERS)
    throw new PlanError(BECAUSE, `${lowers.length} layers; overlayfs takes ${MOST_LAYERS}`);
  if (upper === undefined && lowers.length === 1) {
    // overlayfs refuses a single layer without an upper one; the layer itself, read-only, is the same.
    openTree(plan, slot, only, 0);
    plan.add(
      "mount_attr",
      { slot, set: MOUNT_ATTR.RDONLY, clear: 0n, propagation: 0n, recursive: 0, usernsSlot: NO_SLOT },
      BECAUSE,
    );
    return;
  }
  const paths = [...lowers, ...(upper === undefined ? [] : [upper, workOf(overlay)])];
  const isShort = paths.every((path) => Buffer.byteLength(path) < FSCONFIG_TEXT);
  if (host.features.lowerdirPlus && isShort) overlayByPath(plan, slot, overlay, host);
  else if (host.features.lowerdirFd) overlayByDescriptor(plan, slot, overlay, host);
  else overlayByMount(plan, slot, overlay, host);
}

function workOf(overlay: Overlay): string {
  if (overlay.work === undefined)
    throw new PlanError(BECAUSE, "an overlay with an upper directory needs a work directory");
  return overlay.work;
}

/** index=off: an upper directory may be mounted again though a mount of it lingers (a lazy unmount). */
function flagsOf(overlay: Overlay, host: HostFacts): string[] {
  if (overlay.upper === undefined) return [];
  return [...(host.features.overlayIndex ? ["index=off"] : []), ...(overlay.volatile ? ["volatile"] : [])];
}

function overlayByPath(plan: PlanBuilder, slot: number, overlay: Overlay, host: HostFacts): void {
  const options = overlay.lowers.map((path) => `lowerdir+=${path}`);
  if (overlay.upper !== undefined) options.push(`upperdir=${overlay.upper}`, `workdir=${workOf(overlay)}`);
  options.push(...flagsOf(overlay, host));
  plan.add(
    "fs_mount",
    { slot, fstype: "overlay", source: "overlay", options, attrs: 0n, fdKeys: [], fdSlots: [] },
    BECAUSE,
  );
}

function overlayByDescriptor(
  plan: PlanBuilder,
  slot: number,
  overlay: Overlay,
  host: HostFacts,
  usernsSlot?: number,
): void {
  const fdKeys: string[] = [];
  const fdSlots: number[] = [];
  const give = (key: string, path: string) => {
    const directory = plan.slot(BECAUSE);
    plan.add("open", { slot: directory, path, flags: BigInt(O.PATH | O.DIRECTORY) }, BECAUSE);
    fdKeys.push(key);
    fdSlots.push(directory);
  };
  for (const path of overlay.lowers) {
    if (usernsSlot === undefined) {
      give("lowerdir+", path);
      continue;
    }
    fdKeys.push("lowerdir+");
    fdSlots.push(mappedLayer(plan, path, usernsSlot));
  }
  if (overlay.upper !== undefined) {
    give("upperdir", overlay.upper);
    give("workdir", workOf(overlay));
  }
  plan.add(
    "fs_mount",
    { slot, fstype: "overlay", source: "overlay", options: flagsOf(overlay, host), attrs: 0n, fdKeys, fdSlots },
    BECAUSE,
  );
  for (const directory of fdSlots) plan.add("close", { slot: directory }, BECAUSE);
}

function mappedLayer(plan: PlanBuilder, path: string, usernsSlot: number): number {
  const layer = plan.slot(BECAUSE);
  plan.add("open_tree", { slot: layer, path, recursive: 0 }, BECAUSE);
  mapOwners(plan, layer, usernsSlot);
  return layer;
}

function mapOwners(plan: PlanBuilder, slot: number, usernsSlot: number): void {
  plan.add(
    "mount_attr",
    { slot, set: MOUNT_ATTR.IDMAP, clear: 0n, propagation: 0n, recursive: 0, usernsSlot },
    BECAUSE,
  );
}

export interface RootfsMount {
  /** The path of the user namespace that its owners are ids of. */
  readonly userns?: string | undefined;
  /** MOUNT_ATTR_*. Default: read-only and without what could harm, as an image is a volume. */
  readonly attributes?: bigint;
}

/** A plan that mounts a root file system at a directory of the host. Throws PlanError. */
export function planRootfsMount(rootfs: Rootfs, target: string, host: HostFacts, options: RootfsMount = {}): Plan {
  const { userns, attributes = VOLUME_ATTRS } = options;
  const plan = new PlanBuilder();
  const slot = userns === undefined ? undefined : plan.slot(BECAUSE);
  if (slot !== undefined && userns !== undefined)
    plan.add("open", { slot, path: userns, flags: BigInt(O.RDONLY) }, BECAUSE);
  const mount = openRootfs(plan, rootfs, host, slot);
  plan.add(
    "mount_attr",
    { slot: mount, set: attributes, clear: 0n, propagation: 0n, recursive: 0, usernsSlot: NO_SLOT },
    BECAUSE,
  );
  plan.add("attach_host", { slot: mount, target }, BECAUSE);
  return plan.plan();
}

const VOLUME_ATTRS = MOUNT_ATTR.RDONLY | MOUNT_ATTR.NOSUID | MOUNT_ATTR.NODEV | MOUNT_ATTR.NOEXEC;

/**
 * Before Linux 6.7 the layers are one text, which fsconfig does not take: mount(2) does, in a mount namespace of the
 * stage's own. It is mounted over the top layer's directory, which is sure to be there, and gone again once it was cloned.
 */
function overlayByMount(plan: PlanBuilder, slot: number, overlay: Overlay, host: HostFacts): void {
  const [target = ""] = overlay.lowers;
  const base = commonDirectory(overlay.lowers);
  const lowerdir = overlay.lowers.map((path) => escape(path.slice(base.length).replace(/^\//, ""))).join(":");
  const upper =
    overlay.upper === undefined ? [] : [`upperdir=${escape(overlay.upper)}`, `workdir=${escape(workOf(overlay))}`];
  const data = [`lowerdir=${lowerdir}`, ...upper, ...flagsOf(overlay, host)].join(",");
  if (Buffer.byteLength(data) >= MOUNT_DATA) {
    throw new PlanError(
      BECAUSE,
      `the paths of ${overlay.lowers.length} layers are ${Buffer.byteLength(data)} bytes; before Linux 6.7 overlayfs takes ${MOUNT_DATA - 1}: use shorter directories, or fewer layers`,
    );
  }
  plan.add("unshare", { flags: CLONE.NEWNS }, BECAUSE);
  plan.add("mount", { source: "", target: "/", fstype: "", flags: MS.SLAVE | MS.REC, data: "" }, BECAUSE);
  plan.add("chdir", { path: base, tolerate: 0 }, BECAUSE);
  plan.add("mount", { source: "overlay", target, fstype: "overlay", flags: 0n, data }, BECAUSE);
  plan.add("open_tree", { slot, path: target, recursive: 0 }, BECAUSE);
  plan.add("unmount", { path: target, flags: MNT_DETACH }, BECAUSE);
  plan.add("chdir", { path: "/", tolerate: 0 }, BECAUSE);
}

/** The directory that all lie below, so that their texts can be short; never one of them. */
export function commonDirectory(paths: readonly string[]): string {
  const split = paths.map((path) => path.split("/").slice(0, -1));
  const [first = [""]] = split;
  let depth = 0;
  while (depth < first.length && split.every((parts) => parts[depth] === first[depth])) depth++;
  return first.slice(0, depth).join("/") || "/";
}

/** Colons part layers and commas options (overlayfs.rst). */
function escape(path: string): string {
  return path.replaceAll(/[\\:,]/g, (character) => `\\${character}`);
}

/** Sets the propagation of the container's whole tree, from inside. */
export function rootPropagation(plan: PlanBuilder, spec: oci.Spec): void {
  const propagation = spec.linux?.rootfsPropagation;
  if (propagation === undefined || propagation === "") return;
  const field = "linux.rootfsPropagation";
  const flag = PROPAGATION[propagation.replace(/^r(?=shared|slave|private|unbindable)/, "")];
  if (flag === undefined)
    throw new PlanError(
      field,
      `${JSON.stringify(propagation)} is none of shared, slave, private, unbindable, or one of them with a leading r`,
    );
  const recursive = propagation.startsWith("r") ? MS.REC : 0n;
  plan.add("mount", { source: "", target: "/", fstype: "", flags: flag | recursive, data: "" }, field);
}

const PROPAGATION: Readonly<Record<string, bigint>> = {
  shared: MS.SHARED,
  slave: MS.SLAVE,
  private: MS.PRIVATE,
  unbindable: MS.UNBINDABLE,
};
