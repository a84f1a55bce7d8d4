import { cri } from "@berth/spec";
import type { CommandSpec } from "../command.ts";
import { wrap } from "../errors.ts";
import { bool, string } from "../flags.ts";
import { messageJson, printStatuses } from "../output.ts";

export const info: CommandSpec = {
  name: "info",
  usage: "Display information of the container runtime",
  shortOptions: true,
  flags: [
    string("output", "Output format, One of: json|yaml|go-template", { aliases: ["o"], value: "json" }),
    bool("quiet", "Do not show verbose information", { aliases: ["q"] }),
    string(
      "template",
      "The template string is only used when output is go-template; The Template format is golang template",
    ),
  ],
  async run(context) {
    const { flags } = context;
    if (flags.args.length > 0) return context.help();
    const runtime = await context.runtime();
    await wrap("getting status of runtime", async () => {
      const answer = await runtime.status({ verbose: !flags.bool("quiet") });
      const status = answer.status ? messageJson(cri.RuntimeStatusSchema, answer.status) : {};
      // crictl prints these as Go's structs, with the names of the protocol.
      const handlers = answer.runtimeHandlers.map((handler) => messageJson(cri.RuntimeHandlerSchema, handler, true));
      const features = answer.features && messageJson(cri.RuntimeFeaturesSchema, answer.features, true);
      const more = { ...(handlers.length > 0 && { runtimeHandlers: handlers }), ...(features && { features }) };
      await printStatuses(
        context,
        [{ status, more, info: answer.info }],
        flags.string("output"),
        flags.string("template"),
      );
    });
  },
};
