import type { Command } from "commander";
import { interruptible } from "../interrupt.ts";
import { type CreateFlags, defineCreateOptions } from "../run/flags.ts";
import { make } from "../run/make.ts";
import { runRequest } from "../run/request.ts";
import type { Session } from "../session.ts";
import { printLine } from "../shell.ts";

const HELP = `
Example:
  berth start -a $(berth create --name job IMAGE make)

Everything is set up and the process waits, parked, just before its first instruction. Takes the options of berth run.`;

export function define(command: Command, session: Session): void {
  command
    .usage("[options] IMAGE [COMMAND] [ARGUMENT...]")
    .argument("<image>", "name, or id, of an image; it is pulled if it is not here")
    .argument("[command...]", "what to run instead of the image's command")
    .passThroughOptions()
    .helpOption("--help", "print this help")
    .addHelpText("after", HELP)
    .action((image: string, args: string[], flags: CreateFlags) => createContainer(session, flags, image, args));
  defineCreateOptions(command);
}

async function createContainer(
  session: Session,
  flags: CreateFlags,
  image: string,
  args: readonly string[],
): Promise<void> {
  const { shell } = session;
  // Nobody is attached: --rm is berthd's to do, as for `run -d`.
  const request = runRequest(flags, image, args, shell, { detach: true });
  using interrupt = interruptible(shell);
  try {
    const made = await make(await session.connect(), shell, request, flags.pull, interrupt.signal);
    printLine(shell, made.containerId);
  } catch (error) {
    throw interrupt.signal.aborted ? interrupt.signal.reason : error;
  }
}
