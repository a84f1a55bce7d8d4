import type { Command } from "commander";
import { cri } from "@berth/spec";
import { commandFailure, runAttached } from "../attached.ts";
import { ANNOTATION } from "../annotations.ts";
import { CallError } from "../call-error.ts";
import type { Client } from "../client.ts";
import { eachOf } from "../each.ts";
import { EXIT, Failure } from "../failure.ts";
import { containerName, findContainer } from "../names.ts";
import type { Session } from "../session.ts";
import { printLine } from "../shell.ts";
import { DEFAULT_DETACH_KEYS } from "../stream/detach-keys.ts";

const { CONTAINER_CREATED, CONTAINER_RUNNING } = cri.ContainerState;

interface Flags {
  readonly attach?: boolean;
  readonly interactive?: boolean;
  readonly detachKeys: string;
}

export function define(command: Command, session: Session): void {
  command
    .usage("[options] CONTAINER...")
    .argument("<container...>", "names, ids, or beginnings of ids")
    .option("-a, --attach", "show its output, and end with its exit code")
    .option("-i, --interactive", "also give it this terminal's input, if it was made with -i")
    .option("--detach-keys <keys>", "keys that leave the container running", DEFAULT_DETACH_KEYS)
    .addHelpText(
      "after",
      "\nA container that has ended cannot be started again (the CRI has no such call): run a new one.",
    )
    .action((names: string[], flags: Flags) => startContainers(session, names, flags));
}

async function startContainers(session: Session, names: readonly string[], flags: Flags): Promise<void> {
  const client = await session.connect();
  const attach = flags.attach === true || flags.interactive === true;
  if (attach && names.length > 1) throw new Failure("start -a takes one container: this terminal can show only one");
  if (attach) return await startAttached(session, client, names[0] ?? "", flags);
  await eachOf(session, names, async (name) => {
    await start(client, await startable(client, name));
    printLine(session.shell, name);
  });
}

async function startAttached(session: Session, client: Client, text: string, flags: Flags): Promise<void> {
  const container = await startable(client, text);
  const { annotations, id: containerId } = container;
  const status = await runAttached(client, session.shell, {
    containerId,
    name: containerName(container),
    stdin: flags.interactive === true && annotations[ANNOTATION.stdin] === "true",
    tty: annotations[ANNOTATION.tty] === "true",
    detachKeys: flags.detachKeys,
    signalProxy: true,
    start: () => start(client, container),
  });
  session.exitCode = status?.exitCode ?? 0;
}

async function startable(client: Client, text: string): Promise<cri.Container> {
  const container = await findContainer(client, text);
  const name = containerName(container);
  if (container.state === CONTAINER_CREATED) return container;
  if (container.state === CONTAINER_RUNNING) throw new Failure(`container ${name} is running already`);
  throw new Failure(
    `container ${name} has ended, and the CRI cannot start it again: remove it (berth rm ${name}) and run a new one`,
  );
}

async function start(client: Client, { id: containerId }: cri.Container): Promise<void> {
  try {
    await client.runtime.startContainer({ containerId });
  } catch (error) {
    if (error instanceof CallError)
      throw new Failure(error.message, commandFailure(error.message) ?? EXIT.failure, { cause: error });
    throw error;
  }
}
