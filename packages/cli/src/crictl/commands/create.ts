import type { CommandSpec } from "../command.ts";
import { CrictlError, wrap } from "../errors.ts";
import { bothSchemas } from "../jsonschema.ts";
import { loadPod } from "../load.ts";
import { createContainer } from "../making.ts";
import { withPullFlags } from "../pulling.ts";

export const create: CommandSpec = {
  name: "create",
  usage: "Create a new container",
  argsUsage: "POD container-config.[json|yaml] pod-config.[json|yaml]",
  subcommands: [bothSchemas],
  flags: withPullFlags(
    "Do not pull the image on container creation (overrides pull-image-on-create=true in config)",
    "Pull the image on container creation (overrides pull-image-on-create=false in config)",
  ),
  async run(context) {
    const { flags, settings } = context;
    const [podSandboxId = "", configPath = "", podPath = ""] = flags.args;
    if (flags.args.length !== 3) return context.help();
    if (flags.bool("no-pull") && flags.bool("with-pull"))
      throw new CrictlError("conflict: no-pull and with-pull are both set");
    const withPull = (!flags.bool("no-pull") && settings.pullImageOnCreate) || flags.bool("with-pull");
    const runtime = await context.runtime(flags.number("cancel-timeout"));
    await wrap("creating container", async () => {
      const sandboxConfig = loadPod(context, podPath);
      context.print(await createContainer(context, runtime, { podSandboxId, configPath, sandboxConfig, withPull }));
    });
  },
};
