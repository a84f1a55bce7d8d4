import type { Command } from "commander";
import type { cri } from "@berth/spec";
import type { Client } from "../client.ts";
import { eachOf } from "../each.ts";
import { Failure } from "../failure.ts";
import { pick } from "../names.ts";
import type { Session } from "../session.ts";
import { printLine } from "../shell.ts";

export function define(command: Command, session: Session): void {
  command
    .usage("[options] IMAGE...")
    .argument("<image...>", "names, ids, or beginnings of ids")
    .option("-f, --force", "even if a container uses it, or it is not there")
    .addHelpText(
      "after",
      "\nRemoves every name of the image, as the CRI has it. An ended container keeps what it has of it until it is removed.",
    )
    .action(async (names: string[], { force = false }: { force?: boolean }) => {
      const client = await session.connect();
      await eachOf(session, names, async (name) => {
        await remove(client, name, force);
        printLine(session.shell, name);
      });
    });
}

async function remove(client: Client, text: string, force: boolean): Promise<void> {
  const image = await find(client, text);
  if (!image) {
    if (force) return;
    throw new Failure(`no such image: "${text}"; see berth images`);
  }
  if (!force) await refuseIfUsed(client, image, text);
  await client.images.removeImage({ image: { image: image.id } });
}

/** By what berthd knows it by, else by the beginning of an id. */
async function find(client: Client, text: string): Promise<cri.Image | undefined> {
  const isPrefix = /^(sha256:)?[0-9a-f]{4,64}$/.test(text);
  const { image } = await client.images.imageStatus({ image: { image: text } });
  if (image || !isPrefix) return image;
  const { images } = await client.images.listImages({});
  const prefix = text.replace(/^sha256:/, "");
  const found = images.filter(({ id }) => id.replace(/^sha256:/, "").startsWith(prefix));
  if (found.length === 0) return undefined;
  return pick(
    found.map((each) => ({ ...each, labels: {} })),
    `sha256:${prefix}`,
    "image",
    "berth images",
    (each) => [each.repoTags[0] ?? each.id],
  );
}

async function refuseIfUsed(client: Client, { id, repoTags, repoDigests }: cri.Image, text: string): Promise<void> {
  const names = new Set([id, ...repoTags, ...repoDigests]);
  const { containers } = await client.runtime.listContainers({});
  const user = containers.find(({ imageId, imageRef }) => names.has(imageId) || names.has(imageRef));
  if (user)
    throw new Failure(
      `image ${text} is used by container ${user.metadata?.name ?? ""} (${user.id.slice(0, 12)}): remove that first, or use berth rmi -f`,
    );
}
