/** state: what `runc state` prints, with the same fields in the same order. */
import type { Command } from "../command/context.ts";
import { userName } from "../state/owner.ts";
import type { ContainerRecord, StateDirectory } from "../state/record.ts";
import { statusOf } from "../state/status.ts";

export const command: Command = {
  run({ args: [id = ""], states, out }) {
    out(JSON.stringify(describe(states.read(id), states), null, 2));
    return 0;
  },
};

/** As `state` and `list --format json` show a container. */
export function describe(record: ContainerRecord, states: StateDirectory): Record<string, unknown> {
  const status = statusOf(record, states);
  const { annotations = {}, ociVersion } = record.berth.spec;
  return {
    ociVersion,
    id: record.id,
    pid: status === "stopped" ? 0 : record.init_process_pid,
    status,
    bundle: record.berth.bundle,
    rootfs: record.config.rootfs,
    created: record.created,
    ...(Object.keys(annotations).length === 0 ? {} : { annotations }),
    owner: userName(states.owner(record.id)),
  };
}
