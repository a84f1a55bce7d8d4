import type { CommandSpec } from "../command.ts";
import { wrap } from "../errors.ts";
import { duration, string } from "../flags.ts";
import { podSchema } from "../jsonschema.ts";
import { loadPod } from "../load.ts";

export const RUNTIME_FLAG = string(
  "runtime",
  "Runtime handler to use. Available options are defined by the container runtime.",
  { aliases: ["r"] },
);

export const runp: CommandSpec = {
  name: "runp",
  usage: "Run a new pod",
  argsUsage: "pod-config.[json|yaml]",
  subcommands: [podSchema("Display the JSON schema for the pod-config.json")],
  flags: [
    RUNTIME_FLAG,
    duration(
      "cancel-timeout",
      "Seconds to wait for a run pod sandbox request to complete before cancelling the request",
      { aliases: ["T"] },
    ),
  ],
  async run(context) {
    const { flags } = context;
    const [path = ""] = flags.args;
    if (flags.args.length !== 1 || path === "") return context.help();
    const runtime = await context.runtime(flags.number("cancel-timeout"));
    const config = await wrap("load podSandboxConfig", () => loadPod(context, path));
    const { podSandboxId } = await wrap("run pod sandbox", () =>
      runtime.runPodSandbox({ config, runtimeHandler: flags.string("runtime") }),
    );
    context.print(podSandboxId);
  },
};
