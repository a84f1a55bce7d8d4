import type { CommandSpec } from "../command.ts";
import { CrictlError, EMPTY_ID, wrap } from "../errors.ts";
import { string } from "../flags.ts";

export const checkpoint: CommandSpec = {
  name: "checkpoint",
  usage: "Checkpoint one or more running containers",
  argsUsage: "CONTAINER-ID [CONTAINER-ID...]",
  shortOptions: true,
  flags: [
    string(
      "export",
      "Specify the name of the tar archive (/path/to/checkpoint.tar) used to export the checkpoint image.",
      { aliases: ["e"] },
    ),
  ],
  async run(context) {
    const { flags } = context;
    const location = flags.string("export");
    if (flags.args.length === 0) throw new CrictlError(EMPTY_ID);
    if (location === "")
      throw new CrictlError(
        "cannot checkpoint a container without specifying the checkpoint destination. Use --export=/path/to/checkpoint.tar",
      );
    const runtime = await context.runtime();
    for (const containerId of flags.args) {
      await wrap(`checkpointing the container ${JSON.stringify(containerId)} failed`, () =>
        runtime.checkpointContainer({ containerId, location }),
      );
      context.print(containerId);
    }
  },
};
