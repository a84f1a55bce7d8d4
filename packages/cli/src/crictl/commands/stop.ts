import { cri } from "@berth/spec";
import type { CommandSpec } from "../command.ts";
import { ExitError, wrap } from "../errors.ts";
import { bool, int } from "../flags.ts";
import { stopContainer } from "../making.ts";

const RUNNING = cri.ContainerState.CONTAINER_RUNNING;

export const stop: CommandSpec = {
  name: "stop",
  usage: "Stop one or more running containers",
  argsUsage: "CONTAINER-ID [CONTAINER-ID...]",
  shortOptions: true,
  flags: [
    int("timeout", "Seconds to wait to kill the container after a graceful stop is requested", { aliases: ["t"] }),
    bool("all", "Stop all running containers", { aliases: ["a"] }),
  ],
  async run(context) {
    const { flags } = context;
    const runtime = await context.runtime();
    const all = flags.bool("all");
    if (all && flags.args.length > 0) throw new ExitError("cannot specify CONTAINER-ID(s) when using --all", 1);
    if (!all && flags.args.length === 0)
      throw new ExitError("you must specify at least one CONTAINER-ID or use --all", 1);
    const filter = { state: { state: RUNNING } };
    const ids = all
      ? (await wrap("listing containers", () => runtime.listContainers({ filter }))).containers.map(({ id }) => id)
      : flags.args;
    if (ids.length === 0) return context.print("No running containers found.");
    for (const id of ids) {
      await wrap(`stopping the container ${JSON.stringify(id)}`, () =>
        stopContainer(context, runtime, id, BigInt(flags.number("timeout"))),
      );
    }
  },
};
