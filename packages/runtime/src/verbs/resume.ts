/** resume: what `pause` stopped goes on. */
import type { Command } from "../command/context.ts";
import { CommandError } from "../command/failure.ts";
import { thaw } from "../state/freezer.ts";
import { statusOf } from "../state/status.ts";

export const command: Command = {
  run({ args: [id = ""], states }) {
    const record = states.read(id);
    if (statusOf(record, states) !== "paused") throw new CommandError("container not paused");
    thaw(record);
    return 0;
  },
};
