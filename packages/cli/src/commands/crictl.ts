import type { Command } from "commander";
import { crictl } from "../crictl/program.ts";
import type { Session } from "../session.ts";

/** Everything behind the word is crictl's own: its flags are none of berth's. */
export function define(command: Command, session: Session): void {
  command
    .usage("[global options] COMMAND [options]")
    .argument("[arguments...]")
    .helpOption(false)
    .allowUnknownOption()
    .passThroughOptions()
    .action(async (argv: string[]) => {
      session.exitCode = await crictl(argv, session.shell);
    });
}
