/** restore: by CRIU. Where CRIU cannot work on this machine that is said first, and nothing is touched. */
import type { Command } from "../command/context.ts";
import { CommandError } from "../command/failure.ts";
import { checkCriu } from "../command/criu.ts";
import { checkId } from "../state/record.ts";

export const command: Command = {
  run({ args: [id = ""] }) {
    checkId(id);
    checkCriu();
    throw new CommandError("restore: this version of berth-runc does not drive CRIU yet");
  },
};
