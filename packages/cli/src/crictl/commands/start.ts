import type { CommandSpec } from "../command.ts";
import { CrictlError, EMPTY_ID, wrap } from "../errors.ts";
import { startContainer } from "../making.ts";

export const start: CommandSpec = {
  name: "start",
  usage: "Start one or more created containers",
  argsUsage: "CONTAINER-ID [CONTAINER-ID...]",
  async run(context) {
    const { args } = context.flags;
    if (args.length === 0) throw new CrictlError(EMPTY_ID);
    const runtime = await context.runtime();
    for (const id of args)
      await wrap(`starting the container ${JSON.stringify(id)}`, () => startContainer(context, runtime, id));
  },
};
