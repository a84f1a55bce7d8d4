/** What is done with registries besides pulling: push, copy from one to another, and what they list. */
import { formatReference, image, type Reference } from "@berth/spec/oci";
import { parseIndex, parseManifest } from "./documents.ts";
import { ImageError } from "./errors.ts";
import type { FileSource, RemoteSource } from "./layers/jobs.ts";
import type { WorkerPool } from "./layers/pool.ts";
import { Semaphore } from "./layers/semaphore.ts";
import { namesFor, referenceOf, requirePlatform, thisPlatform } from "./pull.ts";
import type { FetchedManifest } from "./registry/client.ts";
import type { HostCredentials } from "./registry/credentials.ts";
import type { RegistrySettings } from "./registry/settings.ts";
import type { RetryPolicy } from "./registry/retry.ts";
import type { Catalog } from "./store/catalog.ts";
import type { ContentStore } from "./store/content.ts";
import type { Database } from "./store/database.ts";
import { Lease } from "./store/leases.ts";
import type { Credentials, Progress } from "./types.ts";

export interface RemoteContext {
  readonly pool: WorkerPool;
  readonly content: ContentStore;
  readonly catalog: Catalog;
  readonly database: Database;
  readonly registries: Partial<RegistrySettings>;
  readonly retry: RetryPolicy | undefined;
  readonly credentials: (reference: Reference) => Promise<HostCredentials | undefined>;
}

export interface PushOptions {
  readonly auth?: Credentials;
  readonly signal?: AbortSignal;
  readonly progress?: (progress: Progress) => void;
  /** Also layers that their makers do not want in other registries ("foreign", "nondistributable"). */
  readonly nondistributable?: boolean;
  /** The image for this platform alone; of a copy, default: this machine's. */
  readonly platform?: image.Platform;
}

export interface CopyOptions extends PushOptions {
  /** For the registry that is copied from; `auth` is for the other. */
  readonly fromAuth?: Credentials;
  /** All images of an index, and the index itself; else the one for `platform`. */
  readonly all?: boolean;
}

export interface RemoteOptions {
  readonly auth?: Credentials;
  readonly signal?: AbortSignal;
}

/** Blobs on their way at a time. */
const PARALLEL = 3;
/** Indexes within indexes. */
const DEPTH_MAX = 3;

/** A document and everything that has to be in the registry before it. */
interface Tree {
  readonly document: FetchedManifest;
  readonly children: readonly Tree[];
  readonly blobs: readonly image.Descriptor[];
}

export class Remote {
  readonly #context: RemoteContext;

  constructor(context: RemoteContext) {
    this.#context = context;
  }

  /**
   * Pushes the image that `reference` names here to where it says; an index only if all its images are here, else the
   * image itself. Resolves to the digest that the reference has there now. Rejects with ImageError.
   */
  async push(reference: string, options: PushOptions = {}): Promise<string> {
    const { catalog, content, database } = this.#context;
    const target = referenceOf(reference);
    const name = namesFor(target, target.digest ?? "")[0] as string;
    const known = catalog.lookup(name);
    if (known === undefined) throw new ImageError("NotFound", `no such image: ${formatReference(target)}`);
    const { platform } = options;
    if (platform !== undefined) requirePlatform(formatReference(target), known.content.config, platform);
    const root = platform === undefined ? known.target : known.content.manifestDigest;
    const lease = new Lease(database, true);
    try {
      lease.content(known.target, known.content.manifestDigest);
      const tree = await this.#stored(root, known.content.manifestDigest);
      for (const blob of blobsOf(tree)) lease.content(blob.digest);
      const mountFrom = this.#siblingOf(target, known.content.manifest.config.digest);
      return await this.#send(tree, target, options, {
        mountFrom,
        source: ({ digest }) => {
          if (content.has(digest)) return { kind: "file", path: content.path(digest) };
          throw new ImageError("NotFound", `blob ${digest} of ${formatReference(target)} is not in the content store`);
        },
      });
    } finally {
      lease.release();
    }
  }

  /** From one registry to another, through this node but not into its store. Resolves to the digest. Rejects with ImageError. */
  async copy(from: string, to: string, options: CopyOptions = {}): Promise<string> {
    const [source, target] = [referenceOf(from), referenceOf(to)];
    const { signal, platform = thisPlatform() } = options;
    const remote = await this.#source(source, options.fromAuth);
    const tree =
      options.all === true
        ? await this.#fetched(remote, undefined, signal)
        : await this.#chosen(remote, platform, signal);
    return await this.#send(tree, target, options, {
      mountFrom: source.domain === target.domain && source.path !== target.path ? source.path : undefined,
      source: () => remote,
    });
  }

  /** The tags of a repository; a tag in `repository` does not matter. Rejects with ImageError. */
  async tags(repository: string, options: RemoteOptions = {}): Promise<string[]> {
    const source = await this.#source(referenceOf(repository), options.auth);
    return await this.#context.pool.run("tags", { source }, { signal: options.signal });
  }

  /** Whether a registry takes the credentials. Rejects with ImageError Unauthorized where it does not. */
  async login(server: string, auth: Credentials, signal?: AbortSignal): Promise<void> {
    const source = await this.#source(referenceOf(`${server}/login`), auth);
    await this.#context.pool.run("login", { source }, { signal });
  }

  /** What refers to an image in its registry: signatures, attestations. Rejects with ImageError. */
  async referrers(
    reference: string,
    options: RemoteOptions & { readonly artifactType?: string } = {},
  ): Promise<image.Descriptor[]> {
    const { signal, artifactType } = options;
    const { pool } = this.#context;
    const parsed = referenceOf(reference);
    const source = await this.#source(parsed, options.auth);
    const digest = parsed.digest ?? (await pool.run("document", { source }, { signal })).document.digest;
    return await pool.run("referrers", { source, digest, artifactType }, { signal });
  }

  async #source(reference: Reference, credentials: Credentials | undefined): Promise<RemoteSource> {
    const { registries, retry } = this.#context;
    const hostCredentials = credentials === undefined ? await this.#context.credentials(reference) : undefined;
    return { kind: "registry", reference, credentials, hostCredentials, registries, retry };
  }

  async #send(
    tree: Tree,
    reference: Reference,
    options: PushOptions,
    from: {
      readonly mountFrom: string | undefined;
      readonly source: (descriptor: image.Descriptor) => FileSource | RemoteSource;
    },
  ): Promise<string> {
    const { pool } = this.#context;
    const { progress = () => undefined, nondistributable = false } = options;
    const abort = new AbortController();
    const signal = options.signal === undefined ? abort.signal : AbortSignal.any([options.signal, abort.signal]);
    let target = await this.#source(reference, options.auth);
    const slots = new Semaphore(PARALLEL);
    const pushBlob = async (descriptor: image.Descriptor): Promise<void> => {
      const { digest: id, size: totalBytes } = descriptor;
      progress({ id, status: "uploading", doneBytes: 0, totalBytes });
      const { pushed, session } = await pool.run(
        "pushBlob",
        { target, descriptor, source: from.source(descriptor), mountFrom: from.mountFrom },
        { signal, progress: ({ doneBytes }) => progress({ id, status: "uploading", doneBytes, totalBytes }) },
      );
      // What the first login brought is good for the others.
      target = { ...target, session };
      progress({ id, status: pushed === "pushed" ? "done" : pushed, doneBytes: totalBytes, totalBytes });
    };
    const wanted = blobsOf(tree).filter(({ mediaType }) => nondistributable || !image.isForeignLayerType(mediaType));
    for (const { digest, size } of wanted) progress({ id: digest, status: "waiting", doneBytes: 0, totalBytes: size });
    const [first, ...rest] = wanted;
    try {
      if (first !== undefined) await pushBlob(first);
      await Promise.all(rest.map(async (blob) => await slots.run(signal, async () => await pushBlob(blob))));
    } catch (error) {
      abort.abort(error);
      throw error;
    }
    const pushDocument = async (node: Tree, tag: string | undefined): Promise<string> => {
      for (const child of node.children) await pushDocument(child, undefined);
      const { bytes, mediaType } = node.document;
      const result = await pool.run("pushManifest", { target, bytes, mediaType, tag }, { signal });
      target = { ...target, session: result.session };
      return result.digest;
    };
    const tag = reference.digest === undefined ? (reference.tag ?? "latest") : undefined;
    const digest = await pushDocument(tree, tag);
    progress({
      id: "manifest",
      status: "done",
      doneBytes: tree.document.bytes.length,
      totalBytes: tree.document.bytes.length,
    });
    if (reference.digest === undefined || reference.digest === digest) return digest;
    throw new ImageError(
      "NotFound",
      `${formatReference(reference)} cannot be pushed by that digest: not all images of the index are here`,
    );
  }

  /** Of the store: the index with everything that it names, or the manifest alone. */
  async #stored(target: string, manifest: string): Promise<Tree> {
    const { content } = this.#context;
    const read = async (digest: string, depth: number): Promise<Tree | undefined> => {
      if (!content.has(digest)) return undefined;
      const document = documentOf(await content.read(digest), digest);
      if (!image.isIndexType(document.mediaType)) return leafOf(document);
      if (depth === DEPTH_MAX) return undefined;
      const entries = parseIndex(document.bytes, `index ${digest}`).manifests;
      const children = await Promise.all(entries.map(async (entry) => await read(entry.digest, depth + 1)));
      return children.every((child) => child !== undefined) ? { document, children, blobs: [] } : undefined;
    };
    const whole = await read(target, 0);
    const complete =
      whole !== undefined && blobsOf(whole).every((blob) => isOptional(blob) || content.has(blob.digest));
    if (complete) return whole;
    return leafOf(documentOf(await content.read(manifest), manifest));
  }

  async #chosen(source: RemoteSource, platform: image.Platform, signal: AbortSignal | undefined): Promise<Tree> {
    const { documents } = await this.#context.pool.run("resolve", { source, platform }, { signal });
    return leafOf(documents.at(-1) as FetchedManifest);
  }

  async #fetched(
    source: RemoteSource,
    digest: string | undefined,
    signal: AbortSignal | undefined,
    depth = 0,
  ): Promise<Tree> {
    const { document, session } = await this.#context.pool.run("document", { source, digest }, { signal });
    if (!image.isIndexType(document.mediaType)) return leafOf(document);
    if (depth === DEPTH_MAX)
      throw new ImageError("InvalidImage", `index ${document.digest}: indexes nest deeper than ${DEPTH_MAX}`);
    const children: Tree[] = [];
    for (const entry of parseIndex(document.bytes, `index ${document.digest}`).manifests)
      children.push(await this.#fetched({ ...source, session }, entry.digest, signal, depth + 1));
    return { document, children, blobs: [] };
  }

  /** Another repository of the same registry that this image is known to be in. */
  #siblingOf(target: Reference, imageId: string): string | undefined {
    const record = this.#context.catalog.get(imageId);
    return [...(record?.digests ?? []), ...(record?.tags ?? [])]
      .map((name) => referenceOf(name))
      .find(({ domain, path }) => domain === target.domain && path !== target.path)?.path;
  }
}

const isOptional = ({ mediaType }: image.Descriptor): boolean => image.isForeignLayerType(mediaType);

function documentOf(bytes: Uint8Array, digest: string): FetchedManifest {
  const { mediaType, manifests } = JSON.parse(Buffer.from(bytes).toString("utf8")) as Partial<image.Index>;
  return {
    bytes,
    digest,
    mediaType: mediaType ?? (manifests === undefined ? image.MEDIA.ociManifest : image.MEDIA.ociIndex),
  };
}

function leafOf(document: FetchedManifest): Tree {
  const { config, layers } = parseManifest(document.bytes, document.digest);
  return { document, children: [], blobs: [config, ...layers] };
}

/** Each once. */
function blobsOf(tree: Tree): image.Descriptor[] {
  const all = new Map<string, image.Descriptor>();
  const visit = (node: Tree): void => {
    for (const blob of node.blobs) all.set(blob.digest, blob);
    for (const child of node.children) visit(child);
  };
  visit(tree);
  return [...all.values()];
}
