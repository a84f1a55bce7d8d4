/** Containers of who is not root: everything is made as the root of a user namespace, which is entered before anything else is. */
import { CLONE, hostId, idMapText, MS, NAMESPACE_FLAGS, O, type HostFacts, type Identity } from "@berth/kernel";
import type { oci } from "@berth/spec";
import type { PlanBuilder } from "./builder.ts";
import { PlanError } from "./context.ts";
import type { Namespaces } from "./namespaces.ts";

/** The ordinary user who makes the container; undefined: root, of the machine or of a user namespace. */
export function ordinaryUser(host: HostFacts): Identity | undefined {
  return host.identity?.uid === 0 ? undefined : host.identity;
}

/** Whether nodes cannot be made and hard limits not be raised, whatever the capabilities say. */
export function isConfined(host: HostFacts): boolean {
  return host.identity !== undefined;
}

/** setgroups(2) is denied, or is not this user's to decide (runc leaves the groups alone for every ordinary user). */
export function keepsGroups(host: HostFacts): boolean {
  return host.identity !== undefined && (host.identity.uid !== 0 || host.identity.groupsDenied);
}

/** What no ordinary user can have. Throws PlanError. */
export function checkRootless(spec: oci.Spec, namespaces: Namespaces, user: Identity): void {
  if (!namespaces.all.has("user"))
    throw new PlanError("linux.namespaces", "rootless container requires user namespaces");
  if ((spec.process?.user.additionalGids ?? []).length > 0)
    throw new PlanError("process.user.additionalGids", "cannot set any additional groups in a rootless container");
  if (!namespaces.own.has("user")) return;
  const { uidMappings = [], gidMappings = [] } = spec.linux ?? {};
  if (uidMappings.length === 0)
    throw new PlanError("linux.uidMappings", "rootless containers requires at least one UID mapping");
  if (gidMappings.length === 0)
    throw new PlanError("linux.gidMappings", "rootless containers requires at least one GID mapping");
  if (needsMappers(uidMappings, gidMappings, user) && user.mappers === undefined)
    throw new PlanError(
      "linux.uidMappings",
      "maps of more than the own ids need newuidmap and newgidmap, which are not in $PATH: install uidmap, or map one id",
    );
  for (const [index, { options = [] }] of (spec.mounts ?? []).entries()) {
    for (const option of options) {
      const [, kind, id] = /^([ug]id)=(\d+)$/.exec(option) ?? [];
      if (kind !== undefined && hostId(kind === "uid" ? uidMappings : gidMappings, Number(id)) === undefined)
        throw new PlanError(
          `mounts[${index}].options`,
          `cannot specify ${kind}=${id} mount options for unmapped ${kind} in rootless containers`,
        );
    }
  }
}

/** The kernel lets an ordinary user write a map of the own id alone. */
function needsMappers(
  uids: readonly oci.LinuxIdMapping[],
  gids: readonly oci.LinuxIdMapping[],
  { uid, gid }: Identity,
): boolean {
  const isOwn = ([first, ...more]: readonly oci.LinuxIdMapping[], id: number) =>
    more.length === 0 && first?.size === 1 && first.hostID === id;
  return !isOwn(uids, uid) || !isOwn(gids, gid);
}

/** Orders of the stage, after those that are the user's own to do: the user namespace, and a copy of the host's mounts in it. */
export function enterUserNamespace(plan: PlanBuilder, spec: oci.Spec, namespaces: Namespaces, user: Identity): void {
  const joined = namespaces.joined.find(({ type }) => type === "user");
  if (joined === undefined) enterOwn(plan, spec, user);
  else {
    const slot = plan.slot(joined.because);
    plan.add("open", { slot, path: joined.path, flags: BigInt(O.RDONLY) }, joined.because);
    plan.add("setns", { slot, type: NAMESPACE_FLAGS.user }, joined.because);
    plan.add("close", { slot }, joined.because);
    plan.add("user", { uid: 0, gid: 0, groups: [], keepGroups: 1, chownStdio: 0 }, joined.because);
  }
  plan.add("unshare", { flags: CLONE.NEWNS }, "mounts of the user namespace's own");
  plan.add("mount", { source: "", target: "/", fstype: "", flags: MS.SLAVE | MS.REC, data: "" }, "nothing gets out");
}

function enterOwn(plan: PlanBuilder, spec: oci.Spec, user: Identity): void {
  const { uidMappings = [], gidMappings = [] } = spec.linux ?? {};
  const mappers = needsMappers(uidMappings, gidMappings, user) ? user.mappers : undefined;
  plan.add(
    "enter_userns",
    {
      uidMap: idMapText(uidMappings),
      gidMap: idMapText(gidMappings),
      denySetgroups: mappers === undefined ? 1 : 0,
      uidHelper: mappers?.uid ?? "",
      gidHelper: mappers?.gid ?? "",
    },
    "linux.namespaces (user)",
  );
}
