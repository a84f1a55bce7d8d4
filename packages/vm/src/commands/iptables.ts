/** berth-vm iptables: a guest's own packet filter. */
import type { Command } from "commander";
import { askManagement } from "../management/client.ts";
import type { Context } from "./context.ts";
import { putFile, sandboxDirectory } from "./sandboxes.ts";

interface Options {
  readonly sandboxId: string;
  readonly v6?: boolean;
}

const path = ({ v6 }: Options): string => (v6 === true ? "/ip6tables" : "/iptables");

export function addIptables(command: Command, context: Context): void {
  const iptables = command.command("iptables").description("get or set iptables within a pod's guest");
  iptables
    .command("get")
    .description("get iptables from the guest")
    .requiredOption("--sandbox-id <id>", "the target sandbox for getting the iptables")
    .option("--v6", "of IPv6")
    .action(async (options: Options) => {
      const directory = await sandboxDirectory(context, options.sandboxId);
      context.print(`${(await askManagement(directory, { path: path(options) })).toString()}\n`);
    });
  iptables
    .command("set [file]")
    .description("set iptables in the guest as a file of iptables-save's has them")
    .requiredOption("--sandbox-id <id>", "the target sandbox for setting the iptables")
    .option("--v6", "of IPv6")
    .action(async (file: string | undefined, options: Options) => {
      const directory = await sandboxDirectory(context, options.sandboxId);
      await putFile(directory, path(options), file, "iptables");
    });
}
