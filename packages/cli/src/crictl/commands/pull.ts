import type { CommandSpec } from "../command.ts";
import { CrictlError, wrap } from "../errors.ts";
import { slice, string } from "../flags.ts";
import { podSchema } from "../jsonschema.ts";
import { loadPod } from "../load.ts";
import { PULL_FLAGS, pullImage } from "../pulling.ts";
import { parseLabels } from "../select.ts";

export const pull: CommandSpec = {
  name: "pull",
  usage: "Pull an image from a registry",
  argsUsage: "NAME[:TAG|@DIGEST]",
  shortOptions: true,
  subcommands: [podSchema("Display the JSON schema for the pod-config.json, ")],
  flags: [
    string("pod-config", "Use `pod-config.[json|yaml]` to override the pull c"),
    slice("annotation", "Annotation to be set on the pulled image", { aliases: ["a"] }),
    ...PULL_FLAGS,
  ],
  async run(context) {
    const { flags } = context;
    const [image = ""] = flags.args;
    if (image === "") throw new CrictlError("image name cannot be empty");
    if (flags.args.length > 1) return context.help();
    const images = await context.images();
    const path = flags.string("pod-config");
    const sandboxConfig = path === "" ? undefined : await wrap("load podSandboxConfig", () => loadPod(context, path));
    const annotations = parseLabels(flags.slice("annotation"));
    const ref = await wrap("pulling image", () => pullImage(context, images, { image, annotations, sandboxConfig }));
    context.print(`Image is up to date for ${ref}`);
  },
};
