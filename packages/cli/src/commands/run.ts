import type { Command } from "commander";
import { checkTerminal, commandFailure, runAttached } from "../attached.ts";
import { CallError } from "../call-error.ts";
import type { Client } from "../client.ts";
import { EXIT, Failure } from "../failure.ts";
import { interruptible } from "../interrupt.ts";
import { defineCreateOptions, type RunFlags } from "../run/flags.ts";
import { type Made, make, undo } from "../run/make.ts";
import { runRequest } from "../run/request.ts";
import type { Session } from "../session.ts";
import { printLine, type Shell, warn } from "../shell.ts";
import { DEFAULT_DETACH_KEYS } from "../stream/detach-keys.ts";

const HELP = `
Examples:
  berth run --rm IMAGE echo hello              run a command, print its output, remove the container
  berth run --rm -it IMAGE sh                  a shell; Ctrl-D or "exit" ends it
  berth run -d --name web -p 8080:80 IMAGE     in the background; prints the container's id
  berth run --rm -v "$PWD":/src -w /src IMAGE make
  berth run --rm -m 256m --cpus 0.5 --read-only --cap-drop ALL IMAGE

Options come before IMAGE; what follows it belongs to the container. Each container gets a pod of its own.
Ctrl-P Ctrl-Q leaves a container that has -it, and it runs on. Without -t, Ctrl-C stops the container.
Exit code: the container's; 125 if berth failed, 126 if the command cannot be executed, 127 if it is not there.`;

export function define(command: Command, session: Session): void {
  command
    .usage("[options] IMAGE [COMMAND] [ARGUMENT...]")
    .argument("<image>", "name, or id, of an image; it is pulled if it is not here")
    .argument("[command...]", "what to run instead of the image's command")
    .passThroughOptions()
    .helpOption("--help", "print this help")
    .option("-d, --detach", "run in the background, and print the container's id")
    .option("--detach-keys <keys>", "keys that leave the container running", DEFAULT_DETACH_KEYS)
    .option("--sig-proxy [true|false]", "whether Ctrl-C and SIGTERM stop the container", parseBoolean, true)
    .addHelpText("after", HELP)
    .action((image: string, args: string[], flags: RunFlags & { sigProxy: boolean }) =>
      run(session, flags, image, args),
    );
  defineCreateOptions(command);
}

export function parseBoolean(text: string): boolean {
  if (text !== "true" && text !== "false") throw new Failure(`"${text}" is neither true nor false`);
  return text === "true";
}

async function run(
  session: Session,
  flags: RunFlags & { sigProxy: boolean },
  image: string,
  args: readonly string[],
): Promise<void> {
  const { shell } = session;
  const detach = flags.detach === true;
  const request = runRequest(flags, image, args, shell, { detach });
  const wiring = { stdin: flags.interactive === true, tty: flags.tty === true };
  if (!detach) checkTerminal(shell, wiring);
  const client = await session.connect();
  const made = await makeInterruptibly(client, shell, flags, request);
  if (detach) {
    await start(client, made);
    return printLine(shell, made.containerId);
  }
  const { containerId, name } = made;
  const attachment = {
    containerId,
    name,
    ...wiring,
    detachKeys: flags.detachKeys,
    signalProxy: flags.sigProxy,
    start: () => start(client, made),
  };
  const status = await runAttached(client, shell, attachment);
  if (!status) {
    warn(
      shell,
      `left ${name} running; back to it with: berth attach ${name}${flags.rm ? `; it is not removed by itself now: berth rm -f ${name}` : ""}`,
    );
    return;
  }
  session.exitCode = status.exitCode;
  if (flags.rm) await removeEnded(shell, made);
}

/** A failure is told, and the exit code stays the container's. */
async function removeEnded(shell: Shell, made: Made): Promise<void> {
  try {
    await made.remove();
  } catch (error) {
    warn(shell, `could not remove ${made.name}: ${(error as Error).message}; try again with: berth rm -f ${made.name}`);
  }
}

async function makeInterruptibly(
  client: Client,
  shell: Shell,
  flags: RunFlags,
  request: ReturnType<typeof runRequest>,
): Promise<Made> {
  using interrupt = interruptible(shell);
  try {
    return await make(client, shell, request, flags.pull, interrupt.signal);
  } catch (error) {
    throw interrupt.signal.aborted ? interrupt.signal.reason : error;
  }
}

/** A container that cannot be started is of no use to anybody: it is removed. */
export async function start(client: Client, made: Made): Promise<void> {
  try {
    await client.runtime.startContainer({ containerId: made.containerId });
  } catch (error) {
    await undo(() => made.remove(), error);
    if (error instanceof CallError)
      throw new Failure(error.message, commandFailure(error.message) ?? EXIT.runFailure, { cause: error });
    throw error;
  }
}
