/** File systems that the agent makes ready: what all of a sandbox's containers share, and copies of volumes that change. */
import { lstat, readdir } from "node:fs/promises";
import { basename, join } from "node:path";
import type { oci } from "@berth/spec";
import type { agent } from "@berth/spec/kata";
import type { MessageInitShape } from "@bufbuild/protobuf";
import type { GuestPlaces } from "../guest/runtime.ts";

export type AgentStorage = MessageInitShape<typeof agent.StorageSchema>;

/** As kata-runtime has them (kata_agent.go). */
export const AGENT_PLACES: GuestPlaces = {
  share: "/run/kata-containers/shared/containers",
  shm: "/run/kata-containers/sandbox/shm",
};
export const AGENT_SHARE_TAG = "kataShared";
const WATCHED = `${AGENT_PLACES.share}/watchable`;

/** `shm`: bytes of the pod's /dev/shm. */
export function sandboxStorages(hasShare: boolean, shm: number): AgentStorage[] {
  const share: AgentStorage = {
    driver: "virtio-fs",
    source: AGENT_SHARE_TAG,
    fstype: "virtiofs",
    mountPoint: `${AGENT_PLACES.share}/`,
    options: [],
  };
  const memory: AgentStorage = {
    driver: "ephemeral",
    source: "shm",
    fstype: "tmpfs",
    mountPoint: AGENT_PLACES.shm,
    options: ["noexec", "nosuid", "nodev", "mode=1777", `size=${shm}`],
  };
  return [...(hasShare ? [share] : []), ...(shm > 0 ? [memory] : [])];
}

/** What the agent copies (watcher.rs of the agent): more, and it mounts the volume as it is. */
const MOST_ENTRIES = 16;
const MOST_BYTES = 1 << 20;
/** How the kubelet changes all files of a ConfigMap, a Secret, the downward API or a projection of them at once. */
const KUBELETS_LINK = "..data";

export interface Watched {
  readonly mounts: oci.Mount[];
  readonly storages: AgentStorage[];
}

/**
 * virtio-fs tells a guest of no change: of volumes that the kubelet changes, the agent keeps a copy that it brings up to date by
 * looking. `shared`: the container's part of the share, on the host.
 */
export async function watchVolumes(mounts: readonly oci.Mount[], id: string, shared: string): Promise<Watched> {
  const inside = `${AGENT_PLACES.share}/${id}/`;
  const watched: Watched = { mounts: [], storages: [] };
  for (const mount of mounts) {
    const { source = "" } = mount;
    if (!source.startsWith(inside) || !(await isWatchable(join(shared, source.slice(inside.length))))) {
      watched.mounts.push(mount);
      continue;
    }
    const mountPoint = `${WATCHED}/${id}-${basename(source)}`;
    watched.mounts.push({ ...mount, source: mountPoint });
    watched.storages.push({ driver: "watchable-bind", source, fstype: "bind", mountPoint, options: [] });
  }
  return watched;
}

async function isWatchable(directory: string): Promise<boolean> {
  try {
    if (!(await lstat(join(directory, KUBELETS_LINK))).isSymbolicLink()) return false;
  } catch (error) {
    if (["ENOENT", "ENOTDIR"].includes((error as NodeJS.ErrnoException).code ?? "")) return false;
    throw error;
  }
  const entries = await readdir(directory, { recursive: true, withFileTypes: true });
  if (entries.length > MOST_ENTRIES) return false;
  const files = entries.filter((entry) => entry.isFile());
  const sizes = await Promise.all(files.map(async (entry) => (await lstat(join(entry.parentPath, entry.name))).size));
  return sizes.reduce((total, size) => total + size, 0) <= MOST_BYTES;
}
