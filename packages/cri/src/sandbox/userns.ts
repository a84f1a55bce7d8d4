/** A pod's user namespace: what was asked for, checked, and the ids of its root on the host. */
import { hostId, idMapText, overlap } from "@berth/kernel";
import { cri, type oci } from "@berth/spec";
import { invalid, precondition } from "../errors.ts";
import type { CriContext } from "../context.ts";

export interface UsernsMaps {
  readonly uids: readonly oci.LinuxIdMapping[];
  readonly gids: readonly oci.LinuxIdMapping[];
}

const FIELD = "linux.security_context.namespace_options.userns_options";

/** Undefined: the host's. */
export function usernsOf(config: cri.PodSandboxConfig): UsernsMaps | undefined {
  const options = config.linux?.securityContext?.namespaceOptions?.usernsOptions;
  if (options === undefined || options.mode === cri.NamespaceMode.NODE) {
    if (options && options.uids.length + options.gids.length > 0)
      throw invalid(`${FIELD}: mode NODE is the host's user namespace, which has no mappings to choose`);
    return undefined;
  }
  if (options.mode !== cri.NamespaceMode.POD) {
    const name = cri.NamespaceModeSchema.value[options.mode]?.name ?? options.mode;
    throw invalid(`${FIELD}.mode: ${name} is not a mode of a user namespace; use POD or NODE`);
  }
  return { uids: checkedMap(options.uids, "uids"), gids: checkedMap(options.gids, "gids") };
}

function checkedMap(mappings: readonly cri.IDMapping[], list: "uids" | "gids"): oci.LinuxIdMapping[] {
  const map = mappings.map(ociMapping);
  if (map.length === 0) throw invalid(`${FIELD}.${list}: a user namespace needs a mapping`);
  const empty = map.findIndex(({ size }) => size === 0);
  if (empty >= 0) throw invalid(`${FIELD}.${list}[${empty}].length: must not be 0`);
  if (overlap(map)) throw invalid(`${FIELD}.${list}: mappings overlap`);
  if (hostId(map, 0) === undefined) throw invalid(`${FIELD}.${list}: the container's root (0) is not mapped`);
  return map;
}

export const ociMapping = (mapping: cri.IDMapping): oci.LinuxIdMapping => ({
  containerID: mapping.containerId,
  hostID: mapping.hostId,
  size: mapping.length,
});

/** The same user namespace must be asked for by the pod and by each of its containers. */
export function checkContainerUserns(pod: cri.PodSandboxConfig, container: cri.ContainerConfig): void {
  const asked = container.linux?.securityContext?.namespaceOptions?.usernsOptions;
  const maps = usernsOf(pod);
  const same = (list: readonly cri.IDMapping[], own: readonly oci.LinuxIdMapping[] = []): boolean =>
    list.length === 0 || idMapText(list.map(ociMapping)) === idMapText(own);
  if (!asked) return;
  const wants = asked.mode !== cri.NamespaceMode.NODE;
  if (wants !== (maps !== undefined) || !same(asked.uids, maps?.uids) || !same(asked.gids, maps?.gids))
    throw invalid(`${FIELD}: is not the pod's; the containers of a pod share its user namespace`);
}

/** FailedPrecondition where this machine cannot map the layers of an image. */
export function checkUsernsSupport(context: CriContext): void {
  if (supportsUserns(context)) return;
  throw precondition(
    `${FIELD}: this node's kernel (${context.host.kernel.release}) cannot map the owners of an image's layers; it needs Linux 6.13`,
  );
}

export const supportsUserns = ({ host: { features } }: CriContext): boolean =>
  features.lowerdirFd && features.mountSetattr;

/** What the namespace's root is on the host: uid and gid; 0 and 0 without one. */
export function rootOnHost(maps: UsernsMaps | undefined): { uid: number; gid: number } {
  return { uid: hostId(maps?.uids ?? [], 0) ?? 0, gid: hostId(maps?.gids ?? [], 0) ?? 0 };
}

/** The last id that is mapped without a gap from 0 on. */
export function lastMapped(mappings: readonly oci.LinuxIdMapping[]): number {
  let last = -1;
  for (const { containerID, size } of [...mappings].sort((a, b) => a.containerID - b.containerID))
    if (containerID === last + 1) last = containerID + size - 1;
  return last;
}
