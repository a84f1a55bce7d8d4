import type { Command } from "commander";
import { printJson } from "../json.ts";
import { credentialsOf } from "../registry/credentials.ts";
import { transfer } from "../registry/transfer.ts";
import type { Session } from "../session.ts";
import { printLine } from "../shell.ts";

interface Flags {
  readonly quiet?: boolean;
  readonly json?: boolean;
  readonly creds?: string;
  readonly platform?: string;
}

const HELP = `
Examples:
  berth pull busybox                         docker.io/library/busybox:latest
  berth pull registry.example.com/team/app:1.2
  berth pull app@sha256:…                    exactly this one

Who to be at the registry comes from --creds, else from what berth, docker or nerdctl "login" left in ~/.docker/config.json.
Progress goes to stderr, the image's name to stdout; --json prints its id and reference.`;

export function define(command: Command, session: Session): void {
  command
    .usage("[options] IMAGE")
    .argument("<image>", "[registry/]repository[:tag][@digest]")
    .option("-q, --quiet", "no progress")
    .option("--creds <user:password>", "who to be at the registry")
    .option("--platform <os/arch>", "of an image for several platforms the one for this (default: this machine's)")
    .option("--json", "print the result as JSON")
    .addHelpText("after", HELP)
    .action((image: string, flags: Flags) => pull(session, image, flags));
}

async function pull(session: Session, image: string, flags: Flags): Promise<void> {
  const { shell } = session;
  const auth = await credentialsOf(flags.creds, image, shell);
  const client = await session.connect();
  const quiet = flags.quiet === true || flags.json === true;
  const { id, reference } = await transfer(session, `pull of "${image}"`, quiet, (signal) =>
    client.berth.pull({ image, platform: flags.platform ?? "", ...(auth && { auth }) }, { signal }),
  );
  if (flags.json) printJson(shell, { id, reference });
  else printLine(shell, reference);
}
