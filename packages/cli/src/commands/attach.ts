import type { Command } from "commander";
import { cri } from "@berth/spec";
import { ANNOTATION } from "../annotations.ts";
import { runAttached } from "../attached.ts";
import { Failure } from "../failure.ts";
import { containerName, findContainer } from "../names.ts";
import type { Session } from "../session.ts";
import { warn } from "../shell.ts";
import { DEFAULT_DETACH_KEYS } from "../stream/detach-keys.ts";
import { parseBoolean } from "./run.ts";

interface Flags {
  readonly stdin: boolean;
  readonly interactive?: boolean;
  readonly tty?: boolean;
  readonly detachKeys: string;
  readonly sigProxy: boolean;
}

export function define(command: Command, session: Session): void {
  command
    .usage("[options] CONTAINER")
    .argument("<container>", "name, id, or beginning of an id")
    .option("--no-stdin", "do not give the container this terminal's input")
    .option("-i, --interactive", "it was made with -i; known already of what berth run made")
    .option("-t, --tty", "it was made with -t; known already of what berth run made")
    .option("--detach-keys <keys>", "keys that leave the container running", DEFAULT_DETACH_KEYS)
    .option("--sig-proxy [true|false]", "whether Ctrl-C and SIGTERM stop the container", parseBoolean, true)
    .addHelpText(
      "after",
      "\nShows what the container writes from now on (berth logs shows what it wrote before), until it ends; its exit code is berth's.",
    )
    .action((container: string, flags: Flags) => attach(session, container, flags));
}

async function attach(session: Session, text: string, flags: Flags): Promise<void> {
  const client = await session.connect();
  const container = await findContainer(client, text);
  const name = containerName(container);
  if (container.state !== cri.ContainerState.CONTAINER_RUNNING)
    throw new Failure(`container ${name} is not running; see what it wrote with: berth logs ${name}`);
  const { annotations } = container;
  const status = await runAttached(client, session.shell, {
    containerId: container.id,
    name,
    stdin: flags.stdin && (flags.interactive ?? annotations[ANNOTATION.stdin] === "true"),
    tty: flags.tty ?? annotations[ANNOTATION.tty] === "true",
    detachKeys: flags.detachKeys,
    signalProxy: flags.sigProxy,
  });
  if (!status) return warn(session.shell, `left ${name} running`);
  session.exitCode = status.exitCode;
}
