/** berth checkpoint: archives of running containers, by name, as docker and nerdctl keep them. */
import { mkdir, readdir, rm } from "node:fs/promises";
import { join, resolve } from "node:path";
import type { Command } from "commander";
import { cri } from "@berth/spec";
import { configure } from "../command.ts";
import { Failure } from "../failure.ts";
import { containerName, findContainer } from "../names.ts";
import type { Session } from "../session.ts";
import { printLine } from "../shell.ts";

/** Beside berth's own state: berthd collects nothing there. */
const DIRECTORY = "/var/lib/berth-checkpoints";
const NAME = /^[A-Za-z0-9][\w.-]*$/;
const SUFFIX = ".tar";

interface Flags {
  readonly checkpointDir: string;
  readonly leaveRunning?: boolean;
}

export function define(command: Command, session: Session): void {
  command
    .usage("COMMAND CONTAINER")
    .helpCommand(false)
    .addHelpText(
      "after",
      "\nAn archive is as the kubelet keeps them. A new container goes on from one: berth run -d DIRECTORY/CONTAINER/CHECKPOINT.tar.",
    );
  const create = command
    .command("create")
    .summary("write the state of a running container to an archive")
    .usage("[options] CONTAINER CHECKPOINT")
    .argument("<container>", "name, id, or beginning of an id")
    .argument("<checkpoint>", "what to call it")
    .option("--leave-running", "leave the container running")
    .action((container: string, name: string, flags: Flags) => createCheckpoint(session, container, name, flags));
  const ls = command
    .command("ls")
    .alias("list")
    .summary("list a container's checkpoints")
    .usage("[options] CONTAINER")
    .argument("<container>", "name, id, or beginning of an id")
    .action((container: string, flags: Flags) => list(session, container, flags));
  const remove = command
    .command("rm")
    .alias("remove")
    .summary("remove a checkpoint")
    .usage("[options] CONTAINER CHECKPOINT")
    .argument("<container>", "name, id, or beginning of an id")
    .argument("<checkpoint>", "its name")
    .action((container: string, name: string, flags: Flags) => removeCheckpoint(session, container, name, flags));
  for (const sub of [create, ls, remove]) {
    sub.option("--checkpoint-dir <dir>", "where checkpoints are kept, on berthd's machine", DIRECTORY);
    configure(sub, session.shell);
  }
}

async function createCheckpoint(session: Session, text: string, name: string, flags: Flags): Promise<void> {
  const client = await session.connect();
  const container = await findContainer(client, text);
  if (container.state !== cri.ContainerState.CONTAINER_RUNNING)
    throw new Failure(`container ${containerName(container)} is not running`);
  const location = archive(flags, container.id, name);
  if ((await names(flags, container.id)).includes(name))
    throw new Failure(`checkpoint with name ${name} already exists for container ${containerName(container)}`);
  await mkdir(join(location, ".."), { recursive: true, mode: 0o700 });
  await client.runtime.checkpointContainer({ containerId: container.id, location });
  if (flags.leaveRunning !== true) await client.runtime.stopContainer({ containerId: container.id, timeout: 0n });
  printLine(session.shell, name);
}

async function list(session: Session, text: string, flags: Flags): Promise<void> {
  const { id } = await findContainer(await session.connect(), text);
  printLine(session.shell, "CHECKPOINT NAME");
  for (const name of await names(flags, id)) printLine(session.shell, name);
}

async function removeCheckpoint(session: Session, text: string, name: string, flags: Flags): Promise<void> {
  const container = await findContainer(await session.connect(), text);
  const location = archive(flags, container.id, name);
  if (!(await names(flags, container.id)).includes(name))
    throw new Failure(`checkpoint ${name} does not exist for container ${containerName(container)}`);
  await rm(location);
}

function archive({ checkpointDir }: Flags, id: string, name: string): string {
  if (!NAME.test(name)) throw new Failure(`checkpoint name "${name}" is not letters, digits, _, . and -`);
  return join(resolve(checkpointDir), id, `${name}${SUFFIX}`);
}

async function names({ checkpointDir }: Flags, id: string): Promise<string[]> {
  try {
    const files = await readdir(join(resolve(checkpointDir), id));
    return files
      .filter((file) => file.endsWith(SUFFIX))
      .map((file) => file.slice(0, -SUFFIX.length))
      .toSorted();
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === "ENOENT") return [];
    throw error;
  }
}
