/** Removal of images that nothing uses: of `berth image prune` and `berth system prune`. */
import type { Client } from "./client.ts";
import type { Session } from "./session.ts";
import { printLine } from "./shell.ts";
import { humanSize } from "./units.ts";

/** `all`: also images that have a name. */
export async function pruneImages(client: Client, session: Session, all: boolean): Promise<void> {
  const [{ images }, { containers }] = await Promise.all([
    client.images.listImages({}),
    client.runtime.listContainers({}),
  ]);
  const used = new Set(containers.flatMap(({ imageId, imageRef, image }) => [imageId, imageRef, image?.image ?? ""]));
  let bytes = 0n;
  for (const image of images) {
    const names = [image.id, ...image.repoTags, ...image.repoDigests];
    if (image.pinned || names.some((name) => used.has(name)) || (image.repoTags.length > 0 && !all)) continue;
    await client.images.removeImage({ image: { image: image.id } });
    bytes += image.size;
    printLine(session.shell, `removed image ${image.repoTags[0] ?? image.id}`);
  }
  printLine(session.shell, `freed ${humanSize(bytes)} of images`);
}
