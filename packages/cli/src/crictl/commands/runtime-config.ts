import { cri } from "@berth/spec";
import type { CommandSpec } from "../command.ts";
import { wrap } from "../errors.ts";
import { table } from "../go/table.ts";

export const runtimeConfig: CommandSpec = {
  name: "runtime-config",
  usage: "Retrieve the container runtime configuration",
  shortOptions: true,
  async run(context) {
    const runtime = await wrap("get runtime client", () => context.runtime());
    const { linux } = await wrap("get runtime config: call RuntimeConfig RPC", () => runtime.runtimeConfig({}));
    if (!linux) return;
    const driver = cri.CgroupDriverSchema.value[linux.cgroupDriver]?.name ?? String(linux.cgroupDriver);
    context.shell.stdout.write(table([["cgroup driver:", driver]], 10));
  },
};
