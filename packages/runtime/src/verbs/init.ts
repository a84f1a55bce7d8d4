/** init: runc's own second stage. berth-runc has none: a container's process is bosun's from the first instruction. */
import type { Command } from "../command/context.ts";
import { CommandError } from "../command/failure.ts";

export const command: Command = {
  run() {
    throw new CommandError("init is berth-runc's own and cannot be called: use create or run");
  },
};
