/** berth-vm metrics: of one pod's machine, as whoever runs it tells them. */
import type { Command } from "commander";
import { askManagement } from "../management/client.ts";
import type { Context } from "./context.ts";
import { sandboxDirectory } from "./sandboxes.ts";

export function addMetrics(command: Command, context: Context): void {
  command
    .command("metrics [sandbox]")
    .description("gather metrics associated with infrastructure used to run a sandbox")
    .action(async (sandbox: string | undefined) => {
      const directory = await sandboxDirectory(context, sandbox);
      context.print(`${(await askManagement(directory, { path: "/metrics" })).toString()}\n`);
    });
}
