import { cri } from "@berth/spec";
import { create } from "@bufbuild/protobuf";
import type { CommandSpec, Context } from "../command.ts";
import { wrap } from "../errors.ts";
import { bool, slice, string } from "../flags.ts";
import { table } from "../go/table.ts";
import { humanSize } from "../go/units.ts";
import { listImages, repoDigest, repoTagPairs } from "../images-list.ts";
import { printMessage } from "../output.ts";
import { truncated } from "../select.ts";

export const IMAGE_FILTER = slice(
  "filter",
  "Filter output based on provided conditions.\nAvailable filters: \n* dangling=(boolean - true or false)\n* reference=/regular expression/\n* before=<image-name>[:<tag>]|<image id>|<image@digest>\n* since=<image-name>[:<tag>]|<image id>|<image@digest>\nMultiple filters can be combined together.",
  { aliases: ["f"] },
);

export const images: CommandSpec = {
  name: "images",
  aliases: ["image", "img"],
  usage: "List images",
  argsUsage: "[REPOSITORY[:TAG]]",
  shortOptions: true,
  flags: [
    bool("verbose", "Show verbose info for images", { aliases: ["v"] }),
    bool("quiet", "Only show image IDs", { aliases: ["q"] }),
    IMAGE_FILTER,
    string("output", "Output format, One of: json|yaml|table", { aliases: ["o"] }),
    bool("digests", "Show digests"),
    bool("no-trunc", "Show output without truncating the ID"),
    bool("pinned", "Show whether the image is pinned or not"),
  ],
  async run(context) {
    const { flags } = context;
    if (flags.args.length > 1) return context.help();
    const service = await context.images();
    const list = await wrap("listing images", () => listImages(service, flags.args[0] ?? "", flags.slice("filter")));
    const format = flags.string("output");
    if (format === "json" || format === "yaml")
      return printMessage(
        context,
        cri.ListImagesResponseSchema,
        create(cri.ListImagesResponseSchema, { images: list }),
        format,
      );
    if (flags.bool("quiet")) return list.forEach(({ id }) => context.print(id));
    if (flags.bool("verbose")) return list.forEach((image) => verbose(context, image));
    const [digests, pinned] = [flags.bool("digests"), flags.bool("pinned")];
    const header = ["IMAGE", "TAG", ...(digests ? ["DIGEST"] : []), "IMAGE ID", "SIZE", ...(pinned ? ["PINNED"] : [])];
    context.shell.stdout.write(table([header, ...list.flatMap((image) => rows(context, image))]));
  },
};

function rows({ flags }: Context, image: cri.Image): string[][] {
  const full = flags.bool("no-trunc");
  const [name, digest] = repoDigest(image.repoDigests);
  const shown = (id: string): string => (full ? id : truncated(id, "sha256:"));
  return repoTagPairs(image.repoTags, name).map(([repository, tag]) => [
    repository,
    tag,
    ...(flags.bool("digests") ? [shown(digest)] : []),
    shown(image.id),
    humanSize(Number(image.size), 3),
    ...(flags.bool("pinned") ? [String(image.pinned)] : []),
  ]);
}

function verbose(context: Context, image: cri.Image): void {
  context.print(`ID: ${image.id}`);
  for (const tag of image.repoTags) context.print(`RepoTags: ${tag}`);
  for (const digest of image.repoDigests) context.print(`RepoDigests: ${digest}`);
  if (image.size !== 0n) context.print(`Size: ${image.size}`);
  if (image.uid) context.print(`Uid: ${image.uid.value === 0n ? "" : `value:${image.uid.value}`}`);
  if (image.username) context.print(`Username: ${image.username}`);
  if (image.pinned) context.print(`Pinned: ${image.pinned}`);
  context.print("");
}
