import { type Command, Option } from "commander";
import { checkTerminal, commandFailure } from "../attached.ts";
import { EXIT, Failure, refused } from "../failure.ts";
import { findContainer } from "../names.ts";
import type { Session } from "../session.ts";
import { openStream, type StreamEnd } from "../stream/client.ts";
import { DEFAULT_DETACH_KEYS, parseDetachKeys } from "../stream/detach-keys.ts";
import { wire } from "../stream/terminal.ts";

interface Flags {
  readonly interactive?: boolean;
  readonly tty?: boolean;
  readonly detachKeys: string;
}

const HELP = `
Examples:
  berth exec web ls -l /srv
  berth exec -it web sh
  berth exec -i db psql < dump.sql

The command gets the container's user, environment and working directory: the CRI has no others for it. To change them, say so in
the command: berth exec web env NAME=value sh -c 'cd /srv && ./job'
Exit code: the command's; 126 if it cannot be executed, 127 if it is not there.`;

/** nerdctl's options for which CRI's ExecRequest has no field. */
const REFUSED: Readonly<Record<string, string>> = {
  "-e, --env <variable>": "the CRI's Exec has no environment; use: berth exec CONTAINER env NAME=value COMMAND",
  "--env-file <file>": "the CRI's Exec has no environment; use: berth exec CONTAINER env NAME=value COMMAND",
  "-w, --workdir <dir>": "the CRI's Exec has no directory; use: berth exec CONTAINER sh -c 'cd DIR && COMMAND'",
  "-u, --user <user>": "the CRI's Exec has no user; the command runs as the container's",
  "-d, --detach": "the CRI's Exec ends with its connection; use: berth exec CONTAINER sh -c 'COMMAND &'",
  "--privileged": "the CRI's Exec has the container's privileges",
};

export function define(command: Command, session: Session): void {
  command
    .usage("[options] CONTAINER COMMAND [ARGUMENT...]")
    .argument("<container>", "name, id, or beginning of an id")
    .argument("<command...>", "what to run")
    .passThroughOptions()
    .option("-i, --interactive", "give the command the input of this terminal or pipe")
    .option("-t, --tty", "give the command a terminal")
    .option("--detach-keys <keys>", "keys that end the connection, and with it the command", DEFAULT_DETACH_KEYS)
    .addHelpText("after", HELP)
    .action((container: string, args: string[], flags: Flags) => exec(session, container, args, flags));
  for (const [flags, reason] of Object.entries(REFUSED)) {
    const option = new Option(flags).hideHelp();
    const refuse = (): never => {
      throw refused(option.long ?? flags, reason);
    };
    command.addOption(option.argParser(refuse)).on(`option:${option.name()}`, refuse);
  }
}

async function exec(session: Session, text: string, cmd: readonly string[], flags: Flags): Promise<void> {
  const { shell } = session;
  const wiring = {
    stdin: flags.interactive === true,
    tty: flags.tty === true,
    detachKeys: parseDetachKeys(flags.detachKeys),
  };
  checkTerminal(shell, wiring);
  const client = await session.connect();
  const { id: containerId } = await findContainer(client, text);
  const { stdin, tty } = wiring;
  const { url } = await client.runtime.exec({ containerId, cmd: [...cmd], stdin, tty, stdout: true, stderr: !tty });
  const stream = await openStream(url, shell);
  session.exitCode = exitCodeOf(await wire(shell, stream, wiring));
}

function exitCodeOf(end: StreamEnd): number {
  switch (end.kind) {
    case "exit":
      return end.code;
    case "detached":
      return 0;
    case "failure":
      throw new Failure(end.message, commandFailure(end.message) ?? EXIT.failure);
    case "lost":
      throw new Failure(`${end.message}; the command has been ended with it`);
  }
}
