import type { CommandSpec } from "../command.ts";
import { CrictlError, wrap } from "../errors.ts";
import { bothSchemas } from "../jsonschema.ts";
import { loadPod } from "../load.ts";
import { createContainer, startContainer } from "../making.ts";
import { withPullFlags } from "../pulling.ts";
import { RUNTIME_FLAG } from "./runp.ts";

export const run: CommandSpec = {
  name: "run",
  usage: "Run a new container inside a sandbox",
  argsUsage: "container-config.[json|yaml] pod-config.[json|yaml]",
  subcommands: [bothSchemas],
  flags: [
    ...withPullFlags(
      "Do not pull the image (overrides disable-pull-on-run=false in config)",
      "Pull the image (overrides disable-pull-on-run=true in config)",
    ),
    RUNTIME_FLAG,
  ],
  async run(context) {
    const { flags, settings } = context;
    const [configPath = "", podPath = ""] = flags.args;
    if (flags.args.length !== 2) return context.help();
    if (flags.bool("no-pull") && flags.bool("with-pull"))
      throw new CrictlError("conflict: no-pull and with-pull are both set");
    const withPull = (!settings.disablePullOnRun && !flags.bool("no-pull")) || flags.bool("with-pull");
    const runtime = await context.runtime(flags.number("cancel-timeout"));
    await wrap("running container", async () => {
      const sandboxConfig = await wrap("load podSandboxConfig", () => loadPod(context, podPath));
      const pod = { config: sandboxConfig, runtimeHandler: flags.string("runtime") };
      const { podSandboxId } = await wrap("run pod sandbox", () => runtime.runPodSandbox(pod));
      const id = await wrap("creating container failed", () =>
        createContainer(context, runtime, { podSandboxId, configPath, sandboxConfig, withPull }),
      );
      await wrap(`starting the container ${JSON.stringify(id)}`, () => startContainer(context, runtime, id));
    });
  },
};
