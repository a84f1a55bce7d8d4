import { cri } from "@berth/spec";
import type { CommandSpec } from "../command.ts";
import { wrap } from "../errors.ts";
import { bool, string } from "../flags.ts";
import { printMessage } from "../output.ts";
import { repeatedly } from "../watch.ts";

export const metricsp: CommandSpec = {
  name: "metricsp",
  usage:
    "List pod metrics. Metrics are unstructured key/value pairs gathered by CRI meant to replace cAdvisor's /metrics/cadvisor endpoint.",
  shortOptions: true,
  flags: [
    string("output", "Output format, One of: json|yaml", { aliases: ["o"] }),
    bool("watch", "Watch pod metrics", { aliases: ["w"] }),
  ],
  async run(context) {
    const { flags } = context;
    const format = flags.string("output") || "json";
    if (flags.args.length > 0 || (format !== "json" && format !== "yaml")) return context.help();
    const runtime = await wrap("get runtime service", () => context.runtime());
    await wrap("get pod metrics", () =>
      repeatedly(context, async () => {
        const answer = await wrap("list pod sandbox metrics", () => runtime.listPodSandboxMetrics({}));
        printMessage(context, cri.ListPodSandboxMetricsResponseSchema, answer, format);
      }),
    );
  },
};
