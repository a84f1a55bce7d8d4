/** pause: every process of the container stops, by the freezer. */
import type { Command } from "../command/context.ts";
import { CommandError } from "../command/failure.ts";
import { freeze } from "../state/freezer.ts";
import { statusOf } from "../state/status.ts";

export const command: Command = {
  run({ args: [id = ""], states }) {
    const record = states.read(id);
    const status = statusOf(record, states);
    if (status !== "running" && status !== "created") throw new CommandError("container not running");
    freeze(record);
    return 0;
  },
};
