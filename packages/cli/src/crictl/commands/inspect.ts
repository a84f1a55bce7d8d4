import { cri } from "@berth/spec";
import type { CommandSpec, Context } from "../command.ts";
import { CrictlError, wrap } from "../errors.ts";
import { bool, string } from "../flags.ts";
import { rfc3339 } from "../go/time.ts";
import { ago } from "../go/units.ts";
import { goMap, inspect as inspectAll, messageJson, printMap, withNulls } from "../output.ts";
import { CONTAINER_FILTERS, listContainers } from "../select.ts";

export const INSPECT_FLAGS = [
  string("output", "Output format, One of: json|yaml|go-template|table", { aliases: ["o"] }),
  bool("quiet", "Do not show verbose information", { aliases: ["q"] }),
  string(
    "template",
    "The template string is only used when output is go-template; The Template format is golang template",
  ),
];

export const inspect: CommandSpec = {
  name: "inspect",
  usage: "Display the status of one or more containers",
  argsUsage: "CONTAINER-ID [CONTAINER-ID...]",
  flags: [...INSPECT_FLAGS, ...CONTAINER_FILTERS],
  async run(context) {
    const [runtime, images] = [await context.runtime(), await context.images()];
    let ids = context.flags.args;
    if (ids.length === 0) {
      const found = await wrap("listing containers", () => listContainers(context, runtime, images));
      ids = found.map(({ id }) => id);
    }
    if (ids.length === 0) {
      context.log("error", "No IDs provided or nothing found per filter");
      return context.help();
    }
    await wrap("get the status of containers", () =>
      inspectAll(context, ids, {
        fetch: (containerId, verbose) =>
          wrap("get container status", () => runtime.containerStatus({ containerId, verbose })),
        json: ({ status }) => (status ? statusJson(status) : null),
        info: ({ info }) => info,
        table: (response, verbose) => printTable(context, response, verbose),
      }),
    );
  },
};

const { CONTAINER_CREATED, CONTAINER_EXITED, CONTAINER_UNKNOWN } = cri.ContainerState;

function statusJson(status: cri.ContainerStatus) {
  const { state, createdAt, startedAt, finishedAt } = status;
  const ended = state === CONTAINER_EXITED || (state === CONTAINER_UNKNOWN && finishedAt > 0n);
  return withNulls(cri.ContainerStatusSchema, {
    ...messageJson(cri.ContainerStatusSchema, status),
    createdAt: rfc3339(createdAt),
    startedAt: rfc3339(state === CONTAINER_CREATED ? undefined : startedAt),
    finishedAt: rfc3339(ended ? finishedAt : undefined),
  });
}

function printTable(context: Context, { status, info }: cri.ContainerStatusResponse, verbose: boolean): void {
  if (!status) throw new CrictlError("the runtime answered without a status");
  const { metadata, state } = status;
  context.print(`ID: ${status.id}`);
  if (metadata?.name) context.print(`Name: ${metadata.name}`);
  if (metadata?.attempt) context.print(`Attempt: ${metadata.attempt}`);
  context.print(`State: ${cri.ContainerStateSchema.value[state]?.name ?? state}`);
  context.print(`Created: ${ago(status.createdAt)}`);
  if (state !== CONTAINER_CREATED) context.print(`Started: ${ago(status.startedAt)}`);
  if (state === CONTAINER_EXITED) {
    if (status.finishedAt > 0n) context.print(`Finished: ${ago(status.finishedAt)}`);
    context.print(`Exit Code: ${status.exitCode}`);
  }
  printMap(context, "Labels", status.labels);
  printMap(context, "Annotations", status.annotations);
  if (verbose) context.print(`Info: ${goMap(info)}`);
}
