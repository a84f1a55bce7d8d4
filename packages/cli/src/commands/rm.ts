import type { Command } from "commander";
import { eachOf } from "../each.ts";
import { findContainer } from "../names.ts";
import { removeContainer } from "../remove.ts";
import type { Session } from "../session.ts";
import { printLine } from "../shell.ts";

export function define(command: Command, session: Session): void {
  command
    .usage("[options] CONTAINER...")
    .argument("<container...>", "names, ids, or beginnings of ids")
    .option("-f, --force", "end it first, if it runs")
    .addHelpText(
      "after",
      "\nWith a container that berth run made go its pod and its log.\n\nExample:\n  berth rm -f $(berth ps -aq)",
    )
    .action(async (names: string[], { force = false }: { force?: boolean }) => {
      const client = await session.connect();
      await eachOf(session, names, async (name) => {
        await removeContainer(client, await findContainer(client, name), { force });
        printLine(session.shell, name);
      });
    });
}
