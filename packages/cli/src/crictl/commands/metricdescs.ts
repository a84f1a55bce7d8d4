import { cri } from "@berth/spec";
import type { CommandSpec } from "../command.ts";
import { wrap } from "../errors.ts";
import { string } from "../flags.ts";
import { printMessage } from "../output.ts";

export const metricdescs: CommandSpec = {
  name: "metricdescs",
  usage: "List metric descriptors. Returns information about the metrics available through the CRI.",
  shortOptions: true,
  flags: [string("output", "Output format, One of: json|yaml", { aliases: ["o"] })],
  async run(context) {
    const { flags } = context;
    const format = flags.string("output") || "json";
    if (flags.args.length > 0 || (format !== "json" && format !== "yaml")) return context.help();
    const runtime = await wrap("get runtime service", () => context.runtime());
    const answer = await wrap("get metric descriptors: list metric descriptors", () =>
      runtime.listMetricDescriptors({}),
    );
    printMessage(context, cri.ListMetricDescriptorsResponseSchema, answer, format);
  },
};
