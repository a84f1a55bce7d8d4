import type { Command } from "commander";
import { cri } from "@berth/spec";
import type { Client } from "../client.ts";
import { configure } from "../command.ts";
import { eachOf } from "../each.ts";
import { Failure } from "../failure.ts";
import { findPod, isRunMade, podName } from "../names.ts";
import { removeContainer, removePod } from "../remove.ts";
import type { Session } from "../session.ts";
import { printLine } from "../shell.ts";

export function define(command: Command, session: Session): void {
  command
    .usage("COMMAND POD...")
    .helpCommand(false)
    .addHelpText("after", "\nberth pods lists them, and berth inspect --type pod tells all of one.");
  const stop = command
    .command("stop")
    .summary("end a pod's containers and release its network")
    .usage("POD...")
    .argument("<pod...>", "names, ids, or beginnings of ids")
    .action((names: string[]) =>
      each(session, names, (client, pod) => client.runtime.stopPodSandbox({ podSandboxId: pod.id })),
    );
  const rm = command
    .command("rm")
    .summary("remove pods and all that is in them")
    .usage("[options] POD...")
    .argument("<pod...>", "names, ids, or beginnings of ids")
    .option("-f, --force", "end what runs in it first")
    .action((names: string[], { force = false }: { force?: boolean }) =>
      each(session, names, (client, pod) => remove(client, pod, force)),
    );
  for (const sub of [stop, rm]) configure(sub, session.shell);
}

async function each(
  session: Session,
  names: readonly string[],
  act: (client: Client, pod: cri.PodSandbox) => Promise<unknown>,
): Promise<void> {
  const client = await session.connect();
  await eachOf(session, names, async (name) => {
    await act(client, await findPod(client, name));
    printLine(session.shell, name);
  });
}

async function remove(client: Client, pod: cri.PodSandbox, force: boolean): Promise<void> {
  const { containers } = await client.runtime.listContainers({ filter: { podSandboxId: pod.id } });
  const running = containers.filter(({ state }) => state === cri.ContainerState.CONTAINER_RUNNING).length;
  if (running > 0 && !force)
    throw new Failure(
      `pod ${podName(pod)} has ${running} running container${running > 1 ? "s" : ""}: use berth pod rm -f`,
    );
  // The containers of `berth run` have logs to remove, too.
  for (const container of containers.filter(isRunMade)) await removeContainer(client, container, { force });
  await removePod(client, pod.id);
}
