/** User and group id maps (user_namespaces(7)). */
import type { oci } from "@berth/spec";

/** The contents of /proc/PID/uid_map or gid_map: one "inside outside size" line per mapping. */
export function idMapText(mappings: readonly oci.LinuxIdMapping[]): string {
  return mappings.map((mapping) => `${mapping.containerID} ${mapping.hostID} ${mapping.size}\n`).join("");
}

/** The host's id of an id inside, or undefined where it is not mapped. */
export function hostId(mappings: readonly oci.LinuxIdMapping[], inside: number): number | undefined {
  for (const { containerID, hostID, size } of mappings) {
    if (inside >= containerID && inside < containerID + size) return hostID + (inside - containerID);
  }
  return undefined;
}

/** The first pair of mappings that overlap on either side, which the kernel answers with EINVAL; undefined if none do. */
export function overlap(mappings: readonly oci.LinuxIdMapping[]): [oci.LinuxIdMapping, oci.LinuxIdMapping] | undefined {
  for (const [index, one] of mappings.entries()) {
    for (const other of mappings.slice(index + 1)) {
      if (
        rangesMeet(one.containerID, one.size, other.containerID, other.size) ||
        rangesMeet(one.hostID, one.size, other.hostID, other.size)
      ) {
        return [one, other];
      }
    }
  }
  return undefined;
}

function rangesMeet(start: number, size: number, otherStart: number, otherSize: number): boolean {
  return start < otherStart + otherSize && otherStart < start + size;
}
