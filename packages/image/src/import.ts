/** Images from files: OCI layouts (image-spec, "Image Layout") and docker archives (what `docker save` writes). */
import { mkdir, open, readFile, rm, stat } from "node:fs/promises";
import { join } from "node:path";
import { digestOf, formatReference, image, parseDigest } from "@berth/spec/oci";
import { parseIndex, parseManifest, parseObject } from "./documents.ts";
import { ImageError, toImageError } from "./errors.ts";
import { compressionOf } from "./layers/inflate.ts";
import type { ArchiveMember } from "./layers/jobs.ts";
import { childFor } from "./layers/resolve-job.ts";
import { CONFIG_MAX, type FetchedManifest, MANIFEST_MAX } from "./registry/client.ts";
import { contentOf, type PullContext, referenceOf, refsOf, thisPlatform } from "./pull.ts";
import type { Lease } from "./store/leases.ts";
import type { ImportOptions, Progress } from "./types.ts";

/** Blobs and documents by name, in a directory or in an archive that was taken apart. */
interface Source {
  /** A small file. Undefined: there is none of that name. */
  read(name: string, limit: number): Promise<Uint8Array | undefined>;
  /** Where on disk a file is; undefined: there is none. */
  file(name: string): Promise<{ readonly path: string; readonly size: number } | undefined>;
  /** sha256 of a file of an archive, which was computed as it came; undefined for a directory. */
  digest(name: string): string | undefined;
}

interface Found {
  /** From what the names point at down to the manifest. */
  readonly documents: readonly FetchedManifest[];
  readonly config: Uint8Array;
  /** Normalised. */
  readonly references: readonly string[];
  /** Where each blob of the manifest is. */
  readonly files: ReadonlyMap<string, string>;
}

const REF_NAME = "org.opencontainers.image.ref.name";
const CONTAINERD_NAME = "io.containerd.image.name";

/** Resolves to the ids of the images. */
export async function importDirectory(
  directory: string,
  options: ImportOptions,
  lease: Lease,
  context: PullContext,
): Promise<string[]> {
  return await importFrom(new DirectorySource(directory), directory, options, lease, context, true);
}

/** Resolves to the ids of the images. */
export async function importStream(
  stream: AsyncIterable<Uint8Array>,
  options: ImportOptions,
  lease: Lease,
  context: PullContext,
): Promise<string[]> {
  const directory = context.content.newIngest();
  await mkdir(directory, { mode: 0o700 });
  try {
    const { progress = ignore, signal } = options;
    const members = await context.pool.run(
      "archive",
      { directory },
      {
        input: stream,
        signal,
        progress: ({ doneBytes }) => progress({ id: "archive", status: "unpacking", doneBytes, totalBytes: 0 }),
      },
    );
    return await importFrom(new ArchiveSource(members), "the archive", options, lease, context, false);
  } finally {
    await rm(directory, { recursive: true, force: true });
  }
}

async function importFrom(
  source: Source,
  where: string,
  options: ImportOptions,
  lease: Lease,
  context: PullContext,
  copy: boolean,
): Promise<string[]> {
  const platform = options.platform ?? thisPlatform();
  const index = await source.read("index.json", MANIFEST_MAX);
  const dockerManifest = await source.read("manifest.json", MANIFEST_MAX);
  if (index === undefined && dockerManifest === undefined)
    throw new ImageError(
      "InvalidImage",
      `${where} is neither an OCI layout (no index.json) nor a docker archive (no manifest.json)`,
    );
  await context.verifier.checkArchive(index === undefined ? "docker-archive" : copy ? "oci" : "oci-archive");
  const found =
    index !== undefined
      ? await readLayout(source, index, platform, dockerManifest)
      : await readDockerArchive(source, dockerManifest as Uint8Array);
  if (found.length === 0)
    throw new ImageError("InvalidImage", `${where} holds no image for ${image.formatPlatform(platform)}`);
  const ids: string[] = [];
  for (const each of found)
    ids.push(await importOne(each, found.length === 1 ? options.name : undefined, options, lease, context, copy));
  return ids;
}

async function importOne(
  found: Found,
  name: string | undefined,
  options: ImportOptions,
  lease: Lease,
  context: PullContext,
  copy: boolean,
): Promise<string> {
  const { documents, config, files } = found;
  const last = documents.at(-1) as FetchedManifest;
  const manifest = parseManifest(last.bytes, last.digest);
  const content = contentOf(documents, manifest, config, options.platform ?? thisPlatform());
  const named =
    found.references.length === 0 && name !== undefined ? [formatReference(referenceOf(name))] : found.references;
  lease.content(
    ...documents.map((document) => document.digest),
    manifest.config.digest,
    ...manifest.layers.map((layer) => layer.digest),
  );
  for (const document of documents) await context.content.put(document.digest, document.bytes);
  await context.content.put(manifest.config.digest, config);
  if (!copy) await adoptAll(files, manifest, context);
  return await context.committer.commit({
    content,
    references: named,
    refs: refsOf(documents),
    source: (digest) => ({ kind: "file", path: files.get(digest) as string }),
    store: copy,
    lease,
    signal: options.signal,
    progress: options.progress ?? ignore,
  });
}

/** Files of an archive that was taken apart are ours: they become blobs as they are. */
async function adoptAll(
  files: ReadonlyMap<string, string>,
  manifest: image.Manifest,
  { content }: PullContext,
): Promise<void> {
  for (const { digest, size } of manifest.layers) {
    const path = files.get(digest);
    if (path !== undefined && !content.has(digest)) await content.adopt(path, digest, size);
  }
}

// --- OCI layout -------------------------------------------------------------------------------------------------------

async function readLayout(
  source: Source,
  indexBytes: Uint8Array,
  platform: image.Platform,
  dockerManifest: Uint8Array | undefined,
): Promise<Found[]> {
  const index = parseIndex(indexBytes, "index.json");
  const tags = dockerManifest === undefined ? new Map<string, string[]>() : dockerTags(dockerManifest);
  const found: Found[] = [];
  // Manifests of several platforms side by side, without names, are one image; otherwise each entry is one.
  const nameless =
    index.manifests.length > 1 &&
    index.manifests.every((entry) => entry.platform !== undefined && nameOf(entry) === undefined);
  const chosen = nameless
    ? [image.selectManifest(index, platform)].filter((entry) => entry !== undefined)
    : index.manifests;
  for (const entry of chosen) {
    if (!image.isIndexType(entry.mediaType) && !image.isManifestType(entry.mediaType)) continue;
    const documents = await layoutDocuments(source, entry, platform);
    const last = documents.at(-1) as FetchedManifest;
    const manifest = parseManifest(last.bytes, last.digest);
    if (
      !image.isManifestType(last.mediaType) ||
      (manifest.config.mediaType !== image.MEDIA.ociConfig && manifest.config.mediaType !== image.MEDIA.dockerConfig)
    )
      continue;
    const name = nameOf(entry);
    const references = new Set(
      [...(name === undefined ? [] : [name]), ...(tags.get(manifest.config.digest) ?? [])].map((text) =>
        formatReference(referenceOf(text)),
      ),
    );
    const files = new Map<string, string>();
    for (const layer of manifest.layers) files.set(layer.digest, await layerFile(source, layer));
    found.push({
      documents,
      config: await layoutBlob(source, manifest.config, CONFIG_MAX),
      references: [...references],
      files,
    });
  }
  return found;
}

/** A full name, where the entry has one: a bare tag names no repository. */
function nameOf(entry: image.Descriptor): string | undefined {
  const full = entry.annotations?.[CONTAINERD_NAME];
  if (full !== undefined) return full;
  const name = entry.annotations?.[REF_NAME];
  return name !== undefined && /[/:]/.test(name) ? name : undefined;
}

async function layoutDocuments(
  source: Source,
  entry: image.Descriptor,
  platform: image.Platform,
): Promise<FetchedManifest[]> {
  const documents: FetchedManifest[] = [];
  for (let next: image.Descriptor | undefined = entry; next !== undefined && documents.length < 5;) {
    const document: FetchedManifest = {
      digest: next.digest,
      mediaType: next.mediaType,
      bytes: await layoutBlob(source, next, MANIFEST_MAX),
    };
    documents.push(document);
    next = childFor(document, platform);
  }
  return documents;
}

function blobName(digest: string): string {
  const { algorithm, hex } = parseDigest(digest);
  return `blobs/${algorithm}/${hex}`;
}

async function layoutBlob(source: Source, descriptor: image.Descriptor, limit: number): Promise<Uint8Array> {
  const bytes = await source.read(blobName(descriptor.digest), limit);
  if (bytes === undefined) throw new ImageError("InvalidImage", `blob ${descriptor.digest} is missing from the layout`);
  if (digestOf(bytes, parseDigest(descriptor.digest).algorithm) !== descriptor.digest)
    throw new ImageError("DigestMismatch", `blob ${descriptor.digest} of the layout has other content`);
  return bytes;
}

async function layerFile(source: Source, layer: image.Descriptor): Promise<string> {
  const name = blobName(layer.digest);
  const file = await source.file(name);
  if (file === undefined) throw new ImageError("InvalidImage", `layer ${layer.digest} is missing from the layout`);
  const digest = source.digest(name);
  if (digest !== undefined && digest !== layer.digest && layer.digest.startsWith("sha256:"))
    throw new ImageError("DigestMismatch", `layer ${layer.digest} of the layout has digest ${digest}`);
  return file.path;
}

// --- docker archive ---------------------------------------------------------------------------------------------------

interface DockerEntry {
  readonly Config: string;
  readonly RepoTags: readonly string[];
  readonly Layers: readonly string[];
}

function dockerEntries(bytes: Uint8Array): DockerEntry[] {
  const { list } = parseObject(Buffer.concat([Buffer.from('{"list":'), bytes, Buffer.from("}")]), "manifest.json");
  if (!Array.isArray(list)) throw new ImageError("InvalidImage", "manifest.json of the archive is no list of images");
  return list.map((entry: unknown, index) => {
    const { Config, RepoTags, Layers } = (entry ?? {}) as Partial<Record<keyof DockerEntry, unknown>>;
    const strings = (value: unknown): value is string[] =>
      Array.isArray(value) && value.every((item) => typeof item === "string");
    if (typeof Config !== "string" || !strings(Layers ?? []) || !strings(RepoTags ?? []))
      throw new ImageError("InvalidImage", `manifest.json of the archive: entry ${index} has no Config or Layers`);
    return { Config, RepoTags: (RepoTags as string[] | null) ?? [], Layers: (Layers as string[] | null) ?? [] };
  });
}

/** Names by config digest, where the config is named by it ("blobs/sha256/<hex>", "<hex>.json"). */
function dockerTags(bytes: Uint8Array): Map<string, string[]> {
  const tags = new Map<string, string[]>();
  for (const { Config, RepoTags } of dockerEntries(bytes)) {
    const hex = /([0-9a-f]{64})(\.json)?$/.exec(Config)?.[1];
    if (hex !== undefined) tags.set(`sha256:${hex}`, [...RepoTags]);
  }
  return tags;
}

async function readDockerArchive(source: Source, manifestBytes: Uint8Array): Promise<Found[]> {
  const found: Found[] = [];
  for (const entry of dockerEntries(manifestBytes)) {
    const config = await source.read(entry.Config, CONFIG_MAX);
    if (config === undefined) throw new ImageError("InvalidImage", `${entry.Config} is missing from the archive`);
    const files = new Map<string, string>();
    const layers: image.Descriptor[] = [];
    for (const name of entry.Layers) {
      const file = await source.file(name);
      if (file === undefined) throw new ImageError("InvalidImage", `layer ${name} is missing from the archive`);
      const digest = source.digest(name) ?? digestOf(await readFile(file.path));
      files.set(digest, file.path);
      layers.push({ mediaType: await layerType(file.path), digest, size: file.size });
    }
    found.push({
      documents: [dockerManifest(config, layers)],
      config,
      references: entry.RepoTags.map((tag) => formatReference(referenceOf(tag))),
      files,
    });
  }
  return found;
}

/** The archive has no manifest: this is the one that a push of its image would make. */
function dockerManifest(config: Uint8Array, layers: readonly image.Descriptor[]): FetchedManifest {
  const manifest: image.Manifest = {
    schemaVersion: 2,
    mediaType: image.MEDIA.dockerManifest,
    config: { mediaType: image.MEDIA.dockerConfig, size: config.length, digest: digestOf(config) },
    layers: layers.map(({ mediaType, size, digest }) => ({ mediaType, size, digest })),
  };
  const bytes = Buffer.from(JSON.stringify(manifest));
  return { digest: digestOf(bytes), mediaType: image.MEDIA.dockerManifest, bytes };
}

async function layerType(path: string): Promise<string> {
  const file = await open(path, "r");
  try {
    const start = new Uint8Array(4);
    await file.read(start, 0, 4, 0);
    return { gzip: image.MEDIA.dockerLayerGzip, zstd: image.MEDIA.dockerLayerZstd, none: image.MEDIA.dockerLayer }[
      compressionOf(start)
    ];
  } finally {
    await file.close();
  }
}

// --- where files come from --------------------------------------------------------------------------------------------

class DirectorySource implements Source {
  readonly #directory: string;

  constructor(directory: string) {
    this.#directory = directory;
  }

  async read(name: string, limit: number): Promise<Uint8Array | undefined> {
    const file = await this.file(name);
    return file === undefined ? undefined : await readLimited(file, name, limit);
  }

  async file(name: string): Promise<{ path: string; size: number } | undefined> {
    if (name.split("/").includes("..")) throw new ImageError("InvalidImage", `"${name}" leads out of the layout`);
    const path = join(this.#directory, name);
    try {
      const found = await stat(path);
      return found.isFile() ? { path, size: found.size } : undefined;
    } catch (error) {
      if ((error as { code?: string }).code === "ENOENT") return undefined;
      throw toImageError(error, `read ${path}`);
    }
  }

  digest(): undefined {
    return undefined;
  }
}

class ArchiveSource implements Source {
  readonly #members: ReadonlyMap<string, ArchiveMember>;

  constructor(members: readonly ArchiveMember[]) {
    this.#members = new Map(members.map((member) => [member.name, member]));
  }

  async read(name: string, limit: number): Promise<Uint8Array | undefined> {
    const member = this.#find(name);
    return member === undefined ? undefined : await readLimited(member, name, limit);
  }

  async file(name: string): Promise<{ path: string; size: number } | undefined> {
    return await Promise.resolve(this.#find(name));
  }

  digest(name: string): string | undefined {
    return this.#find(name)?.digest;
  }

  /** Old docker archives have a layer that repeats as a symlink to its first. */
  #find(name: string): ArchiveMember | undefined {
    let member = this.#members.get(name.replace(/^(\.?\/)+/, ""));
    for (let hops = 0; member?.link !== undefined && hops < 10; hops++) member = this.#members.get(member.link);
    return member?.link === undefined ? member : undefined;
  }
}

async function readLimited(
  { path, size }: { path: string; size: number },
  name: string,
  limit: number,
): Promise<Uint8Array> {
  if (size > limit) throw new ImageError("LimitExceeded", `${name} is larger than ${limit} bytes`);
  try {
    return await readFile(path);
  } catch (error) {
    throw toImageError(error, `read ${path}`);
  }
}

function ignore(_progress: Progress): void {}
