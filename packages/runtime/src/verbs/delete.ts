/** delete: the container's last process, its cgroup, its state, then its poststop hooks. */
import type { Command, CommandContext } from "../command/context.ts";
import { CommandError } from "../command/failure.ts";
import type { ContainerRecord } from "../state/record.ts";
import { removeContainer } from "../state/removal.ts";
import { statusOf } from "../state/status.ts";

export const command: Command = {
  async run(context) {
    const { args, flags, states } = context;
    const [id = ""] = args;
    const force = flags.boolean("force");
    let record;
    try {
      record = states.read(id);
    } catch (error) {
      if (!(error instanceof CommandError)) throw error;
      // What a creation that was cut short has left; nothing at all is as good as deleted.
      if (force) states.remove(id);
      if (force) return 0;
      throw error;
    }
    const status = statusOf(record, states);
    if (status !== "stopped" && status !== "created" && !force)
      throw new CommandError(`cannot delete container ${id} that is not stopped: ${status}`);
    await deleteContainer(record, context);
    return 0;
  },
};

/** What fails in a poststop hook is only a warning. */
export async function deleteContainer(
  record: ContainerRecord,
  { states, log, front }: Pick<CommandContext, "states" | "log" | "front">,
): Promise<void> {
  removeContainer(record, states);
  if (record.berth.spec.linux?.intelRdt !== undefined) {
    const { removeRdt } = await import("../command/rdt.ts");
    removeRdt(record, await front());
  }
  if (record.berth.unit !== undefined) {
    const { removeUnit } = await import("../command/systemd.ts");
    await removeUnit(record);
  }
  if ((record.berth.spec.hooks?.poststop ?? []).length > 0) {
    const { runPoststop } = await import("../command/hooks.ts");
    for (const warning of runPoststop(record, await front())) log.warning(warning);
  }
}
