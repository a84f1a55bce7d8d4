/** net_cls and net_prio: packet classes and interface priorities; v1 only (net_cls.rst, net_prio.rst). */
import type { oci } from "@berth/spec";
import { merge, settings, unavailable, writeOrder, type Settings } from "../orders.ts";

const FIELD = "linux.resources.network";

export function networkV1(
  network: oci.LinuxNetwork,
  classDirectory: string | undefined,
  priorityDirectory: string | undefined,
): Settings {
  const parts: Settings[] = [];
  if (network.classID) {
    const field = `${FIELD}.classID`;
    parts.push(
      classDirectory === undefined
        ? unavailable("net_cls", field)
        : settings([writeOrder(classDirectory, "net_cls.classid", network.classID, field)]),
    );
  }
  if (network.priorities?.length) {
    const field = `${FIELD}.priorities`;
    parts.push(
      priorityDirectory === undefined
        ? unavailable("net_prio", field)
        : settings(
            network.priorities.map(({ name, priority }) =>
              writeOrder(priorityDirectory, "net_prio.ifpriomap", `${name} ${priority}`, field),
            ),
          ),
    );
  }
  return merge(parts);
}
