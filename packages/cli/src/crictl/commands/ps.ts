import { cri } from "@berth/spec";
import { create } from "@bufbuild/protobuf";
import type { CommandSpec, Context, Images } from "../command.ts";
import { CrictlError, wrap } from "../errors.ts";
import { bool, string } from "../flags.ts";
import { table } from "../go/table.ts";
import { ago } from "../go/units.ts";
import { printMap, printMessage } from "../output.ts";
import {
  CONTAINER_FILTERS,
  listContainers,
  POD_NAME_LABEL,
  parseLabels,
  POD_NAMESPACE_LABEL,
  truncated,
} from "../select.ts";

const HEADER = ["CONTAINER", "IMAGE", "CREATED", "STATE", "NAME", "ATTEMPT", "POD ID", "POD", "NAMESPACE"];
const STATES = ["Created", "Running", "Exited", "Unknown"];

export const ps: CommandSpec = {
  name: "ps",
  usage: "List containers",
  shortOptions: true,
  flags: [
    ...CONTAINER_FILTERS,
    bool("verbose", "Show verbose information for containers", { aliases: ["v"] }),
    string("id", "Filter by container id"),
    bool("quiet", "Only display container IDs", { aliases: ["q"] }),
    string("output", "Output format, One of: json|yaml|table", { aliases: ["o"], value: "table" }),
    bool("no-trunc", "Show output without truncating the ID"),
    bool("resolve-image-path", "Show image path instead of image id", { aliases: ["r"] }),
  ],
  async run(context) {
    const { flags } = context;
    if (flags.args.length > 0) return context.help();
    parseLabels(flags.slice("label"));
    const [runtime, images] = [await context.runtime(), await context.images()];
    await wrap("listing containers", async () => {
      const containers = await wrap("list containers", () => listContainers(context, runtime, images));
      const format = flags.string("output");
      if (format === "json" || format === "yaml")
        return printMessage(
          context,
          cri.ListContainersResponseSchema,
          create(cri.ListContainersResponseSchema, { containers }),
          format,
        );
      if (format !== "table") throw new CrictlError(`unsupported output format ${JSON.stringify(format)}`);
      if (flags.bool("quiet")) return containers.forEach(({ id }) => context.print(id));
      if (flags.bool("verbose")) return containers.forEach((container) => verbose(context, container));
      const rows = [];
      for (const container of containers) rows.push(await row(context, images, container));
      context.shell.stdout.write(table([HEADER, ...rows]));
    });
  },
};

async function row({ flags }: Context, images: Images, container: cri.Container): Promise<string[]> {
  const full = flags.bool("no-trunc");
  let image = container.image?.image ?? "";
  const digest = /^([a-z0-9]+(?:[.+_-][a-z0-9]+)*:)[0-9a-f]{32,}$/.exec(image);
  if (!full && digest) image = truncated(image, digest[1]);
  if (flags.bool("resolve-image-path"))
    image =
      (await wrap("failed to fetch repo image", () => images.imageStatus({ image: { image } }))).image?.repoTags[0] ??
      image;
  return [
    full ? container.id : truncated(container.id),
    image,
    ago(container.createdAt),
    STATES[container.state] ?? "",
    container.metadata?.name ?? "",
    String(container.metadata?.attempt ?? 0),
    full ? container.podSandboxId : truncated(container.podSandboxId),
    container.labels[POD_NAME_LABEL] ?? "unknown",
    container.labels[POD_NAMESPACE_LABEL] ?? "unknown",
  ];
}

function verbose(context: Context, container: cri.Container): void {
  const { metadata } = container;
  context.print(`ID: ${container.id}`);
  context.print(`PodID: ${container.podSandboxId}`);
  context.print(`Namespace: ${container.labels[POD_NAMESPACE_LABEL] ?? "unknown"}`);
  if (metadata?.name) context.print(`Name: ${metadata.name}`);
  if (metadata) context.print(`Attempt: ${metadata.attempt}`);
  context.print(`State: ${STATES[container.state] ?? ""}`);
  if (container.image) context.print(`Image: ${container.image.image}`);
  context.print(`Created: ${ago(container.createdAt)}`);
  printMap(context, "Labels", container.labels);
  printMap(context, "Annotations", container.annotations);
  context.print("");
}
