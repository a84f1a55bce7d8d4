import type { CommandSpec } from "../command.ts";
import { wrap } from "../errors.ts";
import { string } from "../flags.ts";

export const updateRuntimeConfig: CommandSpec = {
  name: "update-runtime-config",
  usage: "Update the runtime configuration",
  shortOptions: true,
  flags: [
    string(
      "pod-cidr",
      "The new Classless Inter-Domain Routing (CIDR) value to be used for pod IP addresses. If the CIDR is empty, runtimes should omit it.",
      { aliases: ["p"] },
    ),
  ],
  async run(context) {
    const { flags } = context;
    if (flags.args.length > 0 || flags.count === 0) return context.help();
    const runtime = await context.runtime();
    const networkConfig = { podCidr: flags.string("pod-cidr") };
    await wrap("update runtime config", () => runtime.updateRuntimeConfig({ runtimeConfig: { networkConfig } }));
    context.log("info", "Runtime config successfully updated");
  },
};
