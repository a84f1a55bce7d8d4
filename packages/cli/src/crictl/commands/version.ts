import type { CommandSpec } from "../command.ts";
import { wrap } from "../errors.ts";

export const version: CommandSpec = {
  name: "version",
  usage: "Display runtime version information",
  async run(context) {
    if (context.flags.args.length > 0) return context.help();
    const runtime = await context.runtime();
    const answer = await wrap("getting the runtime version", () => runtime.version({ version: "v1" }));
    context.print(`Version:  ${answer.version}`);
    context.print(`RuntimeName:  ${answer.runtimeName}`);
    context.print(`RuntimeVersion:  ${answer.runtimeVersion}`);
    context.print(`RuntimeApiVersion:  ${answer.runtimeApiVersion}`);
  },
};
