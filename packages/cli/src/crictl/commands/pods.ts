import { cri } from "@berth/spec";
import { create } from "@bufbuild/protobuf";
import type { CommandSpec, Context } from "../command.ts";
import { CrictlError, wrap } from "../errors.ts";
import { bool, int, slice, string } from "../flags.ts";
import { table } from "../go/table.ts";
import { timeString } from "../go/time.ts";
import { ago } from "../go/units.ts";
import { printMap, printMessage } from "../output.ts";
import { listPods, parseLabels, truncated } from "../select.ts";

const HEADER = ["POD ID", "CREATED", "STATE", "NAME", "NAMESPACE", "ATTEMPT", "RUNTIME"];
const STATES = ["Ready", "NotReady"];

export const pods: CommandSpec = {
  name: "pods",
  usage: "List pods",
  shortOptions: true,
  flags: [
    string("id", "filter by pod id"),
    string("name", "Filter by pod name regular expression pattern"),
    string("namespace", "Filter by pod namespace regular expression pattern"),
    string("state", "Filter by pod state", { aliases: ["s"] }),
    slice("label", "Filter by key=value label"),
    bool("verbose", "Show verbose info for pods", { aliases: ["v"] }),
    bool("quiet", "List only pod IDs", { aliases: ["q"] }),
    string("output", "Output format, One of: json|yaml|table", { aliases: ["o"], value: "table" }),
    bool("latest", "Show the most recently created pod", { aliases: ["l"] }),
    int("last", "Show last n recently created pods. Set 0 for unlimited", { aliases: ["n"] }),
    bool("no-trunc", "Show output without truncating the ID"),
  ],
  async run(context) {
    const { flags } = context;
    parseLabels(flags.slice("label"));
    const runtime = await context.runtime();
    await wrap("listing pod sandboxes", async () => {
      const items = await wrap("list pod sandboxes", () => listPods(context, runtime));
      const format = flags.string("output");
      if (format === "json" || format === "yaml")
        return printMessage(
          context,
          cri.ListPodSandboxResponseSchema,
          create(cri.ListPodSandboxResponseSchema, { items }),
          format,
        );
      if (format !== "table") throw new CrictlError(`unsupported output format ${JSON.stringify(format)}`);
      if (flags.bool("quiet")) return items.forEach(({ id }) => context.print(id));
      if (flags.bool("verbose")) return items.forEach((pod) => verbose(context, pod));
      context.shell.stdout.write(table([HEADER, ...items.map((pod) => row(pod, flags.bool("no-trunc")))]));
    });
  },
};

const handlerOf = (pod: cri.PodSandbox): string => pod.runtimeHandler || "(default)";

const row = (pod: cri.PodSandbox, full: boolean): string[] => [
  full ? pod.id : truncated(pod.id),
  ago(pod.createdAt),
  STATES[pod.state] ?? "",
  pod.metadata?.name ?? "",
  pod.metadata?.namespace ?? "",
  String(pod.metadata?.attempt ?? 0),
  handlerOf(pod),
];

function verbose(context: Context, pod: cri.PodSandbox): void {
  const { metadata } = pod;
  context.print(`ID: ${pod.id}`);
  if (metadata?.name) context.print(`Name: ${metadata.name}`);
  if (metadata?.uid) context.print(`UID: ${metadata.uid}`);
  if (metadata?.namespace) context.print(`Namespace: ${metadata.namespace}`);
  if (metadata?.attempt) context.print(`Attempt: ${metadata.attempt}`);
  context.print(`Status: ${STATES[pod.state] ?? ""}`);
  context.print(`Created: ${timeString(pod.createdAt)}`);
  printMap(context, "Labels", pod.labels);
  printMap(context, "Annotations", pod.annotations);
  context.print(`Runtime: ${handlerOf(pod)}`);
  context.print("");
}
