/** From a reference to the manifest for a platform. */
import { image } from "@berth/spec/oci";
import { parseIndex } from "../documents.ts";
import { ImageError } from "../errors.ts";
import type { FetchedManifest, RegistryClient } from "../registry/client.ts";
import type { Jobs } from "./jobs.ts";
import type { JobContext } from "./worker.ts";

/** Indexes within indexes are allowed; nobody nests them deeper. */
const DEPTH_MAX = 3;

export async function resolveImage(
  { source, platform, known }: Jobs["resolve"]["request"],
  { registry }: JobContext,
): Promise<Jobs["resolve"]["result"]> {
  const client = registry(source);
  if (known !== undefined && (await digestNow(client)) === known)
    return { target: known, documents: [], session: client.session };
  const documents = await documentsFor(client, platform);
  return { target: (documents[0] as FetchedManifest).digest, documents, session: client.session };
}

/** Some registries do not know HEAD: then the manifest itself is asked for. */
async function digestNow(client: RegistryClient): Promise<string | undefined> {
  try {
    return await client.head();
  } catch (error) {
    if (error instanceof ImageError && error.code === "RegistryError") return undefined;
    throw error;
  }
}

async function documentsFor(client: RegistryClient, platform: image.Platform): Promise<FetchedManifest[]> {
  const documents = [await client.manifest()];
  for (let depth = 0; ; depth++) {
    const current = documents.at(-1) as FetchedManifest;
    const next = childFor(current, platform);
    if (next === undefined) return documents;
    if (depth === DEPTH_MAX)
      throw new ImageError("InvalidImage", `index ${current.digest}: indexes nest deeper than ${DEPTH_MAX}`);
    documents.push(await client.manifest(next.digest));
  }
}

/** The manifest of an index that `platform` takes; undefined: the document is a manifest itself. Throws Unsupported, InvalidImage. */
export function childFor(document: FetchedManifest, platform: image.Platform): image.Descriptor | undefined {
  if (image.isManifestType(document.mediaType)) return undefined;
  if (
    document.mediaType === image.MEDIA.dockerManifestV1 ||
    document.mediaType === image.MEDIA.dockerManifestV1Signed
  ) {
    throw new ImageError(
      "Unsupported",
      `manifest ${document.digest} is of Docker's schema 1, which registries have dropped: push the image again with a current tool`,
    );
  }
  if (!image.isIndexType(document.mediaType))
    throw new ImageError(
      "Unsupported",
      `manifest ${document.digest} is of type ${document.mediaType}, which is no image`,
    );
  const index = parseIndex(document.bytes, `index ${document.digest}`);
  const chosen = image.selectManifest(index, platform);
  if (chosen !== undefined) return chosen;
  const offered = index.manifests.map((entry) =>
    entry.platform === undefined ? "?" : image.formatPlatform(entry.platform),
  );
  throw new ImageError(
    "Unsupported",
    `no image for ${image.formatPlatform(platform)} in index ${document.digest}, only for ${[...new Set(offered)].join(", ")}`,
  );
}
