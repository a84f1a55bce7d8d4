/** Mounts of a driver's files. */
import type { CdiMount } from "@berth/cdi/injection";

export const MOUNT_OPTIONS = ["ro", "nosuid", "nodev", "rbind", "rprivate"];

/** `paths`: without the root, which is where the container has them. */
export function mountsBelow(root: string, paths: readonly string[]): CdiMount[] {
  return paths.map((path) => ({ hostPath: `${root}${path}`, containerPath: path, options: MOUNT_OPTIONS }));
}
