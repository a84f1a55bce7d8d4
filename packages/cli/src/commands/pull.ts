import type { Command } from "commander";
import { interruptible } from "../interrupt.ts";
import { printJson } from "../json.ts";
import { parseCredentials, storedCredentials } from "../pull/credentials.ts";
import { pullDisplay, QUIET } from "../pull/progress.ts";
import { pullImage } from "../pull/pull.ts";
import type { Session } from "../session.ts";
import { printLine } from "../shell.ts";

interface Flags {
  readonly quiet?: boolean;
  readonly json?: boolean;
  readonly creds?: string;
}

const HELP = `
Examples:
  berth pull busybox                         docker.io/library/busybox:latest
  berth pull registry.example.com/team/app:1.2
  berth pull app@sha256:…                    exactly this one

Who to be at the registry comes from --creds, else from what docker or nerdctl "login" left in ~/.docker/config.json.
Progress goes to stderr, the image's name to stdout; --json prints its id and reference.`;

export function define(command: Command, session: Session): void {
  command
    .usage("[options] IMAGE")
    .argument("<image>", "[registry/]repository[:tag][@digest]")
    .option("-q, --quiet", "no progress")
    .option("--creds <user:password>", "who to be at the registry")
    .option("--json", "print the result as JSON")
    .addHelpText("after", HELP)
    .action((image: string, flags: Flags) => pull(session, image, flags));
}

async function pull(session: Session, image: string, flags: Flags): Promise<void> {
  const { shell } = session;
  const credentials = flags.creds === undefined ? storedCredentials(image, shell.env) : parseCredentials(flags.creds);
  const display = flags.quiet || flags.json ? QUIET : pullDisplay(shell.stderr);
  const client = await session.connect();
  using interrupt = interruptible(shell);
  try {
    const { id, reference } = await pullImage(client, image, credentials, display, interrupt.signal);
    if (flags.json) printJson(shell, { id, reference });
    else printLine(shell, reference);
  } catch (error) {
    throw interrupt.signal.aborted ? interrupt.signal.reason : error;
  }
}
