import { readdirSync, rmSync } from "node:fs";
import { basename, dirname, join } from "node:path";
import { cri } from "@berth/spec";
import type { CommandSpec, Context, Runtime } from "../command.ts";
import { CrictlError, messageOf, together, wrap } from "../errors.ts";
import { bool } from "../flags.ts";
import { idsOf, stopContainer } from "../making.ts";

const RUNNING = cri.ContainerState.CONTAINER_RUNNING;

export const rm: CommandSpec = {
  name: "rm",
  usage: "Remove one or more containers",
  argsUsage: "CONTAINER-ID [CONTAINER-ID...]",
  shortOptions: true,
  flags: [
    bool("force", "Force removal of the container, disregarding if running", { aliases: ["f"] }),
    bool("keep-logs", "Preserve the container log file and its rotations", { aliases: ["k"] }),
    bool("all", "Remove all containers", { aliases: ["a"] }),
  ],
  async run(context) {
    const runtime = await context.runtime();
    const ids = await idsOf(context, "container", async () => (await runtime.listContainers({})).containers);
    await together((ids ?? []).map((id) => () => remove(context, runtime, id)));
  },
};

async function remove(context: Context, runtime: Runtime, containerId: string): Promise<void> {
  const id = JSON.stringify(containerId);
  const { status } = await wrap(`getting container status ${id}`, () => runtime.containerStatus({ containerId }));
  if (status?.state === RUNNING) {
    if (!context.flags.bool("force")) throw new CrictlError(`container ${id} is running, please stop it first`);
    await wrap(`stopping the container ${id}`, () => stopContainer(context, runtime, containerId, 0n));
  }
  await wrap(`removing container ${id}`, () => runtime.removeContainer({ containerId }));
  context.print(containerId);
  if (status?.logPath && !context.flags.bool("keep-logs")) removeLogs(context, containerId, status.logPath);
}

/** The log and its rotations: LOG.* */
function removeLogs(context: Context, id: string, logPath: string): void {
  const [dir, name] = [dirname(logPath), basename(logPath)];
  for (const path of [...rotations(dir, name), logPath]) {
    try {
      rmSync(path);
    } catch (error) {
      context.log("error", `removing log file ${path} for container ${JSON.stringify(id)} failed: ${messageOf(error)}`);
    }
  }
}

function rotations(dir: string, name: string): string[] {
  try {
    return readdirSync(dir)
      .filter((each) => each.startsWith(`${name}.`))
      .map((each) => join(dir, each));
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === "ENOENT") return [];
    throw error;
  }
}
