/** berth-vm policy: what may be asked of a pod's guest. */
import type { Command } from "commander";
import type { Context } from "./context.ts";
import { putFile, sandboxDirectory } from "./sandboxes.ts";

export function addPolicy(command: Command, context: Context): void {
  command
    .command("policy")
    .description("set the policy of a pod's guest")
    .command("set [file]")
    .description("replace it by a file in Rego, if the present one allows SetPolicyRequest")
    .requiredOption("--sandbox-id <id>", "the target sandbox for setting the policy")
    .action(async (file: string | undefined, { sandboxId }: { sandboxId: string }) => {
      await putFile(await sandboxDirectory(context, sandboxId), "/policy", file, "policy");
    });
}
