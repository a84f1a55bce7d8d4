import type { Command } from "commander";
import { eachOf } from "../each.ts";
import { findContainer } from "../names.ts";
import type { Session } from "../session.ts";
import { printLine } from "../shell.ts";
import { waitForExit } from "../wait.ts";

export function define(command: Command, session: Session): void {
  command
    .usage("CONTAINER...")
    .argument("<container...>", "names, ids, or beginnings of ids")
    .action(async (names: string[]) => {
      const client = await session.connect();
      await eachOf(session, names, async (name) => {
        const { id } = await findContainer(client, name);
        printLine(session.shell, String((await waitForExit(client, id)).exitCode));
      });
    });
}
