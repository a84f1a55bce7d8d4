import { cri } from "@berth/spec";
import type { CommandSpec, Context, Runtime } from "../command.ts";
import { CrictlError, together, wrap } from "../errors.ts";
import { bool } from "../flags.ts";
import { idsOf, stopPod } from "../making.ts";

const READY = cri.PodSandboxState.SANDBOX_READY;

export const rmp: CommandSpec = {
  name: "rmp",
  usage: "Remove one or more pods",
  argsUsage: "POD-ID [POD-ID...]",
  shortOptions: true,
  flags: [
    bool("force", "Force removal of the pod sandbox, disregarding if running", { aliases: ["f"] }),
    bool("all", "Remove all pods", { aliases: ["a"] }),
  ],
  async run(context) {
    const runtime = await context.runtime();
    const ids = await idsOf(context, "pod", async () => (await runtime.listPodSandbox({})).items);
    await together((ids ?? []).map((id) => () => remove(context, runtime, id)));
  },
};

async function remove(context: Context, runtime: Runtime, podSandboxId: string): Promise<void> {
  const id = JSON.stringify(podSandboxId);
  const { status } = await wrap(`getting sandbox status of pod ${id}`, () =>
    runtime.podSandboxStatus({ podSandboxId }),
  );
  if (status?.state === READY) {
    if (!context.flags.bool("force")) throw new CrictlError(`pod sandbox ${id} is running, please stop it first`);
    await wrap(`stopping the pod sandbox ${id} failed`, () => stopPod(context, runtime, podSandboxId));
  }
  await wrap(`removing the pod sandbox ${id}`, () => runtime.removePodSandbox({ podSandboxId }));
  context.print(`Removed sandbox ${podSandboxId}`);
}
