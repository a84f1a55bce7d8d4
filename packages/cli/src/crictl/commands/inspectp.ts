import { cri } from "@berth/spec";
import type { CommandSpec, Context } from "../command.ts";
import { CrictlError, wrap } from "../errors.ts";
import { bool, int, slice, string } from "../flags.ts";
import { rfc3339, timeString } from "../go/time.ts";
import { goMap, inspect, messageJson, printMap, withNulls } from "../output.ts";
import { listPods } from "../select.ts";
import { INSPECT_FLAGS } from "./inspect.ts";

export const inspectp: CommandSpec = {
  name: "inspectp",
  usage: "Display the status of one or more pods",
  argsUsage: "POD-ID [POD-ID...]",
  shortOptions: true,
  flags: [
    ...INSPECT_FLAGS,
    string("name", "Filter by pod name regular expression pattern"),
    string("namespace", "Filter by pod namespace regular expression pattern"),
    string("state", "Filter by pod state", { aliases: ["s"] }),
    slice("label", "Filter by key=value label"),
    bool("latest", "Show the most recently created pod", { aliases: ["l"] }),
    int("last", "Show last n recently created pods. Set 0 for unlimited", { aliases: ["n"] }),
  ],
  async run(context) {
    const runtime = await context.runtime();
    let ids = context.flags.args;
    if (ids.length === 0)
      ids = (await wrap("listing pod sandboxes", () => listPods(context, runtime))).map(({ id }) => id);
    if (ids.length === 0) {
      context.log("error", "No IDs provided or nothing found per filter");
      return context.help();
    }
    await wrap("get the status of pod sandboxes", () =>
      inspect(context, ids, {
        fetch: (podSandboxId, verbose) =>
          wrap("get pod sandbox status", () => runtime.podSandboxStatus({ podSandboxId, verbose })),
        json: ({ status }) => (status ? statusJson(status) : null),
        info: ({ info }) => info,
        table: (response, verbose) => printTable(context, response, verbose),
      }),
    );
  },
};

const statusJson = (status: cri.PodSandboxStatus) =>
  withNulls(cri.PodSandboxStatusSchema, {
    ...messageJson(cri.PodSandboxStatusSchema, status),
    createdAt: rfc3339(status.createdAt),
  });

function printTable(context: Context, { status, info }: cri.PodSandboxStatusResponse, verbose: boolean): void {
  if (!status) throw new CrictlError("the runtime answered without a status");
  const { metadata, network } = status;
  context.print(`ID: ${status.id}`);
  if (metadata?.name) context.print(`Name: ${metadata.name}`);
  if (metadata?.uid) context.print(`UID: ${metadata.uid}`);
  if (metadata?.namespace) context.print(`Namespace: ${metadata.namespace}`);
  if (metadata) context.print(`Attempt: ${metadata.attempt}`);
  context.print(`Status: ${cri.PodSandboxStateSchema.value[status.state]?.name ?? status.state}`);
  context.print(`Created: ${timeString(status.createdAt)}`);
  if (network) context.print(`IP Addresses: ${network.ip}`);
  for (const { ip } of network?.additionalIps ?? []) context.print(`Additional IP: ${ip}`);
  printMap(context, "Labels", status.labels);
  printMap(context, "Annotations", status.annotations);
  if (verbose) context.print(`Info: ${goMap(info)}`);
}
