import { cri } from "@berth/spec";
import type { CommandSpec, Context } from "../command.ts";
import { CrictlError, wrap } from "../errors.ts";
import { string } from "../flags.ts";
import { humanSize } from "../go/units.ts";
import { listImages } from "../images-list.ts";
import { goMap, inspect, messageJson } from "../output.ts";
import { IMAGE_FILTER } from "./images.ts";
import { INSPECT_FLAGS } from "./inspect.ts";

export const inspecti: CommandSpec = {
  name: "inspecti",
  usage: "Return the status of one or more images",
  argsUsage: "IMAGE-ID [IMAGE-ID...]",
  shortOptions: true,
  flags: [...INSPECT_FLAGS, string("name", "Filter by image name"), IMAGE_FILTER],
  async run(context) {
    const { flags } = context;
    const images = await context.images();
    let ids = flags.args;
    if (ids.length === 0)
      ids = (await wrap("listing images", () => listImages(images, flags.string("name"), flags.slice("filter")))).map(
        ({ id }) => id,
      );
    if (ids.length === 0) {
      context.log("error", "No IDs provided or nothing found per filter");
      return context.help();
    }
    await inspect(context, ids, {
      async fetch(image, verbose) {
        const found = await wrap(`image status for ${JSON.stringify(image)} request`, () =>
          images.imageStatus({ image: { image }, verbose }),
        );
        if (!found.image) throw new CrictlError(`no such image ${JSON.stringify(image)} present`);
        return found;
      },
      json: ({ image }) => (image ? messageJson(cri.ImageSchema, image) : null),
      info: ({ info }) => info,
      table: (response, verbose) => printTable(context, response, verbose),
    });
  },
};

function printTable(context: Context, { image, info }: cri.ImageStatusResponse, verbose: boolean): void {
  if (!image) return;
  context.print(`ID: ${image.id}`);
  for (const tag of image.repoTags) context.print(`Tag: ${tag}`);
  for (const digest of image.repoDigests) context.print(`Digest: ${digest}`);
  context.print(`Size: ${humanSize(Number(image.size), 3)}`);
  if (verbose) context.print(`Info: ${goMap(info)}`);
}
