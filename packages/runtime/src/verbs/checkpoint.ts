/** checkpoint: by CRIU. Where CRIU cannot work on this machine that is said first, and nothing is touched. */
import type { Command } from "../command/context.ts";
import { CommandError } from "../command/failure.ts";
import { checkCriu } from "../command/criu.ts";
import { statusOf } from "../state/status.ts";

export const command: Command = {
  run({ args: [id = ""], states }) {
    const record = states.read(id);
    const status = statusOf(record, states);
    if (status === "created" || status === "stopped")
      throw new CommandError(`Container cannot be checkpointed in ${status} state`);
    checkCriu();
    throw new CommandError("checkpoint: this version of berth-runc does not drive CRIU yet");
  },
};
