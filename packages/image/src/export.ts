/**
 * Images as archives that both an OCI layout's readers and `docker load` take, as nerdctl save writes them: blobs by digest,
 * index.json and oci-layout (image-spec, "Image Layout"), and docker's manifest.json that points at the same blobs.
 */
import { createReadStream } from "node:fs";
import { copyFile, mkdir, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { image, parseDigest } from "@berth/spec/oci";
import { ImageError, toImageError } from "./errors.ts";
import { directoryHeader, END_OF_ARCHIVE, fileHeader, paddingOf } from "./layers/tar-write.ts";
import type { Catalog } from "./store/catalog.ts";
import type { ContentStore } from "./store/content.ts";
import type { ImageRecord } from "./types.ts";

export interface ExportedImage {
  readonly record: ImageRecord;
  /** The names it has in the archive, normalised; none: it is there by its digest alone. */
  readonly names: readonly string[];
}

interface Archive {
  /** Small files by name. */
  readonly documents: ReadonlyMap<string, Buffer>;
  readonly blobs: readonly { readonly digest: string; readonly size: number }[];
}

const REF_NAME = "org.opencontainers.image.ref.name";
const CONTAINERD_NAME = "io.containerd.image.name";
const CHUNK = 256 * 1024;

/** Throws NotFound where a blob is not in the store: what was pulled or imported is. */
function describe(images: readonly ExportedImage[], catalog: Catalog, content: ContentStore): Archive {
  const blobs = new Map<string, number>();
  const manifests: image.Descriptor[] = [];
  const docker: object[] = [];
  for (const { record, names } of images) {
    const found = catalog.content(record.id);
    if (found === undefined) throw new ImageError("NotFound", `no such image: ${record.id}`);
    for (const digest of [found.manifestDigest, found.manifest.config.digest, ...found.manifest.layers.map(digestOf)]) {
      const size = content.size(digest);
      if (size === undefined)
        throw new ImageError("NotFound", `blob ${digest} of image ${names[0] ?? record.id} is not here: pull it again`);
      blobs.set(digest, size);
    }
    manifests.push(...entriesOf(record, names));
    docker.push({
      Config: blobName(found.manifest.config.digest),
      RepoTags: names.filter((name) => !name.includes("@")),
      Layers: found.manifest.layers.map(({ digest }) => blobName(digest)),
    });
  }
  const index = { schemaVersion: 2, mediaType: image.MEDIA.ociIndex, manifests };
  const documents = new Map([
    ["oci-layout", Buffer.from('{"imageLayoutVersion":"1.0.0"}')],
    ["index.json", Buffer.from(JSON.stringify(index))],
    ["manifest.json", Buffer.from(JSON.stringify(docker))],
  ]);
  return { documents, blobs: [...blobs].map(([digest, size]) => ({ digest, size })) };
}

const digestOf = ({ digest }: image.Descriptor): string => digest;

function entriesOf(record: ImageRecord, names: readonly string[]): image.Descriptor[] {
  const entry = { ...record.manifest, platform: record.platform };
  if (names.length === 0) return [entry];
  return names.map((name) => {
    const tag = /:([^:/]+)$/.exec(name)?.[1];
    const annotations = { [CONTAINERD_NAME]: name, ...(tag === undefined ? {} : { [REF_NAME]: tag }) };
    return { ...entry, annotations };
  });
}

function blobName(digest: string): string {
  const { algorithm, hex } = parseDigest(digest);
  return `blobs/${algorithm}/${hex}`;
}

/** A tar archive, in chunks. Throws ImageError. */
export async function* exportArchive(
  images: readonly ExportedImage[],
  catalog: Catalog,
  content: ContentStore,
): AsyncGenerator<Uint8Array, void, undefined> {
  const { documents, blobs } = describe(images, catalog, content);
  for (const directory of directoriesOf(blobs)) yield directoryHeader(directory);
  for (const { digest, size } of blobs) {
    yield fileHeader(blobName(digest), size);
    yield* blobChunks(content.path(digest), digest, size);
    yield paddingOf(size);
  }
  for (const [name, bytes] of documents) {
    yield fileHeader(name, bytes.length);
    yield bytes;
    yield paddingOf(bytes.length);
  }
  yield END_OF_ARCHIVE;
}

async function* blobChunks(path: string, digest: string, size: number): AsyncGenerator<Uint8Array, void, undefined> {
  let sent = 0;
  try {
    for await (const chunk of createReadStream(path, { highWaterMark: CHUNK })) {
      sent += (chunk as Uint8Array).length;
      yield chunk as Uint8Array;
    }
  } catch (error) {
    throw toImageError(error, `read blob ${digest}`);
  }
  if (sent !== size)
    throw new ImageError("DigestMismatch", `blob ${digest} is ${sent} bytes long on disk instead of ${size}`);
}

/** An OCI layout in `directory`, which is made; an index.json that is there is replaced. Throws ImageError. */
export async function exportLayout(
  directory: string,
  images: readonly ExportedImage[],
  catalog: Catalog,
  content: ContentStore,
): Promise<void> {
  const { documents, blobs } = describe(images, catalog, content);
  try {
    for (const name of directoriesOf(blobs)) await mkdir(join(directory, name), { recursive: true });
    for (const { digest } of blobs) await copyFile(content.path(digest), join(directory, blobName(digest)));
    for (const [name, bytes] of documents) if (name !== "manifest.json") await writeFile(join(directory, name), bytes);
  } catch (error) {
    throw toImageError(error, `export to ${directory}`);
  }
}

function directoriesOf(blobs: Archive["blobs"]): string[] {
  return ["blobs", ...new Set(blobs.map(({ digest }) => `blobs/${parseDigest(digest).algorithm}`))];
}
