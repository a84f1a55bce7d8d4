import type { Command } from "commander";
import { cri } from "@berth/spec";
import type { Client } from "../client.ts";
import { configure } from "../command.ts";
import { Failure } from "../failure.ts";
import { containerName, isRunMade } from "../names.ts";
import { FILTER_HELP, isMeant, parsePruneFilter, type PruneFilter, pruneImages } from "../prune.ts";
import { removeContainer, removePod } from "../remove.ts";
import { checkCommand } from "../system/check.ts";
import { diskUsageCommand } from "../system/disk-usage.ts";
import type { Session } from "../session.ts";
import { printLine } from "../shell.ts";

interface Flags {
  readonly force?: boolean;
  readonly all?: boolean;
  readonly filter: string[];
}

export function define(command: Command, session: Session): void {
  command.usage("COMMAND").helpCommand(false);
  for (const own of [diskUsageCommand, checkCommand]) configure(own(command, session), session.shell);
  const prune = command
    .command("prune")
    .summary("remove ended containers of berth run, empty pods of theirs, and images without a name")
    .description(
      "Removes the ended containers that berth run made, pods of theirs that have no container, and images without a name that no container uses. What the kubelet made stays.",
    )
    .option("-a, --all", "also images that have a name and are not used")
    .option("-f, --force", "needed, so that nothing is removed by mistake")
    .option("--filter <key=value>", FILTER_HELP, (text: string, all: string[]) => [...all, text], [])
    .action((flags: Flags) => pruneAll(session, flags));
  configure(prune, session.shell);
}

async function pruneAll(session: Session, { force, all = false, filter }: Flags): Promise<void> {
  const wanted = parsePruneFilter(filter, Date.now());
  if (!force)
    throw new Failure(
      `system prune removes ended containers of berth run and ${all ? "every unused image" : "images without a name"}: say -f if that is meant`,
    );
  const client = await session.connect();
  await pruneContainers(client, session, wanted);
  await prunePods(client);
  await pruneImages(client, session, all, wanted);
}

async function pruneContainers(client: Client, session: Session, filter: PruneFilter): Promise<void> {
  const { containers } = await client.runtime.listContainers({
    filter: { state: { state: cri.ContainerState.CONTAINER_EXITED } },
  });
  for (const container of containers.filter((each) => isRunMade(each) && isMeant(each, filter))) {
    await removeContainer(client, container, { force: false });
    printLine(session.shell, `removed container ${containerName(container)}`);
  }
}

/** Pods whose `berth run` was killed before it had made their container. */
async function prunePods(client: Client): Promise<void> {
  const [{ items }, { containers }] = await Promise.all([
    client.runtime.listPodSandbox({}),
    client.runtime.listContainers({}),
  ]);
  const used = new Set(containers.map(({ podSandboxId }) => podSandboxId));
  for (const pod of items.filter((item) => isRunMade(item) && !used.has(item.id) && isOld(item)))
    await removePod(client, pod.id);
}

/** One that is being made right now has no container yet; milliseconds. */
const MINUTES_OLD = 10 * 60_000;
const isOld = ({ createdAt }: cri.PodSandbox): boolean => Date.now() - Number(createdAt / 1_000_000n) > MINUTES_OLD;
