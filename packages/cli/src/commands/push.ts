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
  readonly allowNondistributableArtifacts?: boolean;
  readonly platform?: string;
}

const HELP = `
An image that was pulled from an index for several platforms is pushed alone, unless all of the index is here.
Layers that the registry has are not sent again; those of another repository there are mounted.

Examples:
  berth push registry.example.com/team/app:1.2
  berth push --creds me:secret registry.example.com/team/app:1.2

Who to be at the registry comes from --creds, else from what berth, docker or nerdctl "login" left in ~/.docker/config.json.
Progress goes to stderr, the digest to stdout; --json prints digest and reference.`;

export function define(command: Command, session: Session): void {
  command
    .usage("[options] NAME[:TAG]")
    .argument("<image>", "[registry/]repository[:tag], as berth images has it")
    .option("-q, --quiet", "no progress")
    .option("--creds <user:password>", "who to be at the registry")
    .option("--allow-nondistributable-artifacts", "also push layers that are marked as not to be distributed")
    .option("--platform <os/arch>", "the image for this platform alone, without the index that it is from")
    .option("--json", "print the result as JSON")
    .addHelpText("after", HELP)
    .action((image: string, flags: Flags) => push(session, image, flags));
}

async function push(session: Session, image: string, flags: Flags): Promise<void> {
  const { shell } = session;
  const auth = await credentialsOf(flags.creds, image, shell);
  const client = await session.connect();
  const nondistributable = flags.allowNondistributableArtifacts === true;
  const quiet = flags.quiet === true || flags.json === true;
  const { id: digest, reference } = await transfer(session, `push of "${image}"`, quiet, (signal) =>
    client.berth.push({ image, nondistributable, platform: flags.platform ?? "", ...(auth && { auth }) }, { signal }),
  );
  if (flags.json) printJson(shell, { digest, reference });
  else printLine(shell, digest);
}
