import type { CommandSpec } from "../command.ts";
import { wrap } from "../errors.ts";
import { stopPod } from "../making.ts";

export const stopp: CommandSpec = {
  name: "stopp",
  usage: "Stop one or more running pods",
  argsUsage: "POD-ID [POD-ID...]",
  async run(context) {
    const { args } = context.flags;
    if (args.length === 0) return context.help();
    const runtime = await context.runtime();
    for (const id of args)
      await wrap(`stopping the pod sandbox ${JSON.stringify(id)}`, () => stopPod(context, runtime, id));
  },
};
