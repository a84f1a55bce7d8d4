/** Which namespaces a container joins, and which are made for it. */
import { CLONE, NAMESPACE_FILES, NAMESPACE_FLAGS, O, sysctlNamespace } from "@berth/kernel";
import type { oci } from "@berth/spec";
import type { PlanBuilder } from "./builder.ts";
import { PlanError } from "./context.ts";

export interface Namespaces {
  /** Made new; "mount" is unless it is joined: no container's mounts are made among the host's. */
  readonly own: ReadonlySet<oci.NamespaceType>;
  /** Joined by path. */
  readonly joined: readonly { readonly type: oci.NamespaceType; readonly path: string; readonly because: string }[];
  /** Those that are not the host's: its own and the joined ones. */
  readonly all: ReadonlySet<oci.NamespaceType>;
}

/** Throws PlanError. */
export function namespacesOf(spec: oci.Spec): Namespaces {
  const own = new Set<oci.NamespaceType>(["mount"]);
  const joined: { type: oci.NamespaceType; path: string; because: string }[] = [];
  for (const [index, { type, path }] of (spec.linux?.namespaces ?? []).entries()) {
    const because = `linux.namespaces[${index}]`;
    if (path === undefined || path === "") own.add(type);
    else joined.push({ type, path, because });
    if (type === "mount" && path !== undefined && path !== "") own.delete("mount");
  }
  return { own, joined, all: new Set([...own, ...joined.map(({ type }) => type)]) };
}

/** Opens the joined namespaces while the host's paths are in sight (`isEntered`: but the user namespace). Returns the slots. */
export function openNamespaces(
  plan: PlanBuilder,
  namespaces: Namespaces,
  spec: oci.Spec,
  isEntered: boolean,
): ReadonlyMap<oci.NamespaceType, number> {
  const slots = new Map<oci.NamespaceType, number>();
  for (const { type, path, because } of namespaces.joined) {
    if (type === "user" && isEntered) continue;
    const slot = plan.slot(because);
    slots.set(type, slot);
    plan.add("open", { slot, path, flags: BigInt(O.RDONLY) }, because);
    // What is set in a namespace must not be set on the host: a path may lead to the host's own.
    if (changes(spec, type)) plan.add("check_other_ns", { slot, name: NAMESPACE_FILES[type] }, because);
  }
  return slots;
}

/** Whether the configuration changes something of a namespace of this type, and not only uses it. */
function changes(spec: oci.Spec, type: oci.NamespaceType): boolean {
  if (type === "uts") return Boolean(spec.hostname) || Boolean(spec.domainname);
  if (type === "mount") return true;
  if (type === "network" && Object.keys(spec.linux?.netDevices ?? {}).length > 0) return true;
  return Object.keys(spec.linux?.sysctl ?? {}).some((name) => sysctlNamespace(name) === type);
}

/**
 * Joins them; a wrong type is the kernel's EINVAL. The user namespace comes last: until then this process is root on the
 * host, which may join any namespace, also one that the user namespace does not own (a host network).
 */
export function joinNamespaces(
  plan: PlanBuilder,
  namespaces: Namespaces,
  slots: ReadonlyMap<oci.NamespaceType, number>,
): void {
  const ordered = [...namespaces.joined].sort(
    (one, other) => Number(one.type === "user") - Number(other.type === "user"),
  );
  for (const { type, because } of ordered) {
    const slot = slots.get(type);
    if (slot === undefined) continue;
    plan.add("setns", { slot, type: NAMESPACE_FLAGS[type] }, because);
    plan.add("close", { slot }, because);
  }
}

/** Made by unshare after the clone: a cgroup namespace's root is the cgroup that its maker is in by then. */
const AFTER_CLONE: ReadonlySet<oci.NamespaceType> = new Set(["cgroup", "time"]);

/** CLONE_NEW* for `clone`. */
export function cloneFlags(namespaces: Namespaces): bigint {
  let flags = 0n;
  for (const type of namespaces.own) if (!AFTER_CLONE.has(type)) flags |= NAMESPACE_FLAGS[type];
  return flags;
}

/** A new time namespace takes its offsets before anybody is in it (time_namespaces(7)): the next child will be. */
export function timeNamespace(plan: PlanBuilder, spec: oci.Spec, namespaces: Namespaces): void {
  const offsets = spec.linux?.timeOffsets;
  if (!namespaces.own.has("time")) {
    if (offsets !== undefined && Object.keys(offsets).length > 0)
      throw new PlanError("linux.timeOffsets", "needs a new time namespace");
    return;
  }
  plan.add("unshare", { flags: CLONE.NEWTIME }, "linux.namespaces (time)");
  for (const [clock, offset] of Object.entries(offsets ?? {})) {
    const field = `linux.timeOffsets.${clock}`;
    if (clock !== "monotonic" && clock !== "boottime")
      throw new PlanError(field, "is not a clock that can be shifted; use monotonic or boottime");
    const line = `${clock} ${offset.secs ?? 0} ${offset.nanosecs ?? 0}\n`;
    plan.add("write_file", { path: "/proc/self/timens_offsets", data: Buffer.from(line) }, field);
  }
}
