import type { CommandSpec, Context, Images } from "../command.ts";
import { CallError } from "../../call-error.ts";
import { CrictlError, messageOf, together, wrap } from "../errors.ts";
import { bool } from "../flags.ts";

export const rmi: CommandSpec = {
  name: "rmi",
  usage: "Remove one or more images",
  argsUsage: "IMAGE-ID [IMAGE-ID...]",
  description: `Remove one or more images by ID or reference.

NOTE: Due to CRI API limitations, when you specify an image by tag (e.g., 'localhost/test:latest'),
the entire image will be removed along with ALL of its tags, not just the specified tag.
This behavior differs from 'docker rmi', 'nerdctl rmi', and 'ctr image rm', which only remove
the specified tag. To remove only a specific tag, use the container runtime's native CLI tool
(e.g., 'nerdctl', 'ctr', or 'podman').`,
  shortOptions: true,
  flags: [
    bool("all", "Remove all images", { aliases: ["a"] }),
    bool("prune", "Remove all unused images", { aliases: ["q"] }),
  ],
  async run(context) {
    const { flags } = context;
    const [all, prune] = [flags.bool("all"), flags.bool("prune")];
    const images = await context.images();
    const ids = new Set(flags.args);
    if (all || prune)
      for (const image of (await images.listImages({})).images) if (!prune || !image.pinned) ids.add(image.id);
    if (ids.size === 0) {
      if (all || prune) context.log("info", "No images to remove");
      else context.help();
      return;
    }
    if (prune) for (const id of await inUse(context, images)) ids.delete(id);
    await together([...ids].map((id) => () => remove(context, images, id)));
  },
};

async function inUse(context: Context, images: Images): Promise<string[]> {
  const { containers } = await (await context.runtime()).listContainers({});
  const ids: string[] = [];
  for (const { image } of containers) {
    const name = image?.image ?? "";
    try {
      ids.push((await images.imageStatus({ image: { image: name } })).image?.id ?? "");
    } catch (error) {
      if (!(error instanceof CallError)) throw error;
      context.log("error", `image status request for ${JSON.stringify(name)} failed: ${messageOf(error)}`);
    }
  }
  return ids;
}

async function remove(context: Context, images: Images, id: string): Promise<void> {
  const { image } = await wrap(`image status request for ${JSON.stringify(id)} failed`, () =>
    images.imageStatus({ image: { image: id } }),
  );
  if (!image) throw new CrictlError(`no such image ${id}`);
  if (image.repoTags.length > 1 && !id.startsWith("sha256:") && /[:/]/.test(id)) {
    context.log(
      "warning",
      `Image ${JSON.stringify(id)} has multiple tags. Removing this image will delete all of the following tags:`,
    );
    for (const tag of image.repoTags) context.log("warning", `  ${tag}`);
  }
  try {
    await wrap(`error of removing image ${JSON.stringify(id)}`, () => images.removeImage({ image: { image: id } }));
  } catch (error) {
    // Somebody else may have begun to use it, or removed it, meanwhile.
    if (context.flags.bool("prune") && error instanceof CrictlError) return;
    throw error;
  }
  for (const name of image.repoTags.length > 0 ? image.repoTags : image.repoDigests) context.print(`Deleted: ${name}`);
}
