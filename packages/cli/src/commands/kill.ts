import type { Command } from "commander";
import { cri } from "@berth/spec";
import { eachOf } from "../each.ts";
import { Failure, refused } from "../failure.ts";
import { containerName, findContainer } from "../names.ts";
import type { Session } from "../session.ts";
import { printLine } from "../shell.ts";

export function define(command: Command, session: Session): void {
  command
    .usage("[options] CONTAINER...")
    .argument("<container...>", "names, ids, or beginnings of ids")
    .option("-s, --signal <signal>", "KILL; the CRI has no call for others", "KILL")
    .addHelpText("after", "\nTo end a container by its stop signal, with time to finish, use berth stop.")
    .action((names: string[], { signal }: { signal: string }) => kill(session, names, signal));
}

async function kill(session: Session, names: readonly string[], signal: string): Promise<void> {
  if (!["KILL", "SIGKILL", "9"].includes(signal.toUpperCase())) {
    throw refused(
      `--signal ${signal}`,
      "the CRI has no call that sends a signal; berth stop sends the stop signal that run --stop-signal chose",
    );
  }
  const client = await session.connect();
  await eachOf(session, names, async (name) => {
    const container = await findContainer(client, name);
    if (container.state !== cri.ContainerState.CONTAINER_RUNNING)
      throw new Failure(`container ${containerName(container)} is not running`);
    await client.runtime.stopContainer({ containerId: container.id, timeout: 0n });
    printLine(session.shell, name);
  });
}
