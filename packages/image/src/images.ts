/**
 * The image store: pulls, imports, names, unpacks and removes images, and makes the containers' writable layers. One
 * instance per root directory; several with their own roots live side by side.
 */
import type { Hand } from "@berth/kernel";
import { formatReference, type image } from "@berth/spec/oci";
import { mkdir } from "node:fs/promises";
import { Committer } from "./commit.ts";
import { canceled, ImageError } from "./errors.ts";
import { type ExportedImage, exportArchive, exportLayout } from "./export.ts";
import { importDirectory, importStream } from "./import.ts";
import type { LayerLimits } from "./layers/apply.ts";
import { WorkerPool } from "./layers/pool.ts";
import { raceAbort, Unpacker } from "./layers/unpacker.ts";
import { namesFor, pullImage, type PullContext, referenceOf, requirePlatform } from "./pull.ts";
import { Pulls } from "./pulls.ts";
import { Remote } from "./remote.ts";
import { nodeCredentials } from "./registry/node-credentials.ts";
import type { RegistrySettings } from "./registry/settings.ts";
import type { RetryPolicy } from "./registry/retry.ts";
import { chooseSealed, type SnapshotterName } from "./snapshots/choose.ts";
import { tryLimit } from "./snapshots/quota.ts";
import type { Verity } from "./snapshots/seal.ts";
import type { Snapshotter } from "./snapshots/snapshotter.ts";
import { SnapshotStore } from "./snapshots/store.ts";
import { Catalog } from "./store/catalog.ts";
import { Checker, type CheckOptions, type Problem } from "./store/check.ts";
import { Collector } from "./store/collect.ts";
import { type ImageSize, sizesOf } from "./store/sizes.ts";
import { ContentStore } from "./store/content.ts";
import { type Database, openDatabase } from "./store/database.ts";
import { dropTemporaryLeases, Lease } from "./store/leases.ts";
import { Restorer } from "./store/restore.ts";
import { IMAGE_SCHEMA } from "./store/schema.ts";
import { type VerificationOptions, Verifier } from "./verify/verifier.ts";
import type { ImageRecord, ImportOptions, Log, PullOptions, Rootfs, StoreUsage, Usage, UserDatabase } from "./types.ts";

export interface ImagesOptions {
  /** The state directory, /var/lib/berth: content, snapshots and berth.db live there. Made if missing. */
  readonly root: string;
  readonly hand: Hand;
  /** bosun serve's socket: the workers that unpack layers connect to it themselves. */
  readonly serveSocket: string;
  /** Mirrors, certificates, credentials and proxies. Files that it names are read at every pull. */
  readonly registries?: Partial<RegistrySettings>;
  /** The database opened on `root`, where it is shared; else Images opens and closes its own. */
  readonly database?: Database;
  /** References whose images are `pinned`; a trailing "*" matches any rest. */
  readonly pinned?: readonly string[];
  readonly limits?: LayerLimits;
  /** Layers that are fetched and unpacked at a time, of all images together. Default 3. */
  readonly maxConcurrentDownloads?: number | undefined;
  /** Default: the first of erofs, overlayfs and native that works on `root`. */
  readonly snapshotter?: SnapshotterName | undefined;
  /** Seals each layer's image, and holds it against its seal when it is mounted and read. Default: no. Needs the erofs snapshotter. */
  readonly verity?: Verity | undefined;
  /** Bytes that a writable layer may take, where `prepareRootfs` is not told. Default: as many as there are. Needs project quotas. */
  readonly writableLayerSize?: number | undefined;
  readonly retry?: RetryPolicy;
  /** A config.json of docker's, for what is pulled and pushed without credentials of the caller's. Default: none. */
  readonly authFile?: string | undefined;
  /** What images must be for pulling them. Default: any will do. */
  readonly verification?: VerificationOptions;
  /** URL or name of a module with `openTree(socket, directory)`, for workers. Default: @berth/kernel. */
  readonly treeModule?: string;
  readonly log?: Log;
}

/** Bytes of /etc/passwd and /etc/group that are looked at. */
const USER_FILE_MAX = 16 << 20;

/** User databases of so many images are remembered. */
const USERS_KEPT = 64;

interface Parts {
  readonly options: ImagesOptions;
  readonly database: Database;
  readonly content: ContentStore;
  readonly pool: WorkerPool;
  readonly snapshotter: Snapshotter;
  readonly unpacker: Unpacker;
  readonly catalog: Catalog;
  readonly collector: Collector;
  readonly restorer: Restorer;
  readonly context: PullContext;
  readonly remote: Remote;
}

export class Images {
  readonly #parts: Parts;
  readonly #users = new Map<string, Promise<UserDatabase>>();
  /** Pulls and imports, so that close can wait for what they leave behind. */
  readonly #working = new Set<Promise<unknown>>();
  readonly #closing = new AbortController();
  /** Those under way, whoever asked for them. */
  readonly pulls = new Pulls();
  #closed: Promise<void> | undefined;

  private constructor(parts: Parts) {
    this.#parts = parts;
  }

  /** Rejects with ImageError. Call `recover` once before use after a start. */
  static async open(options: ImagesOptions): Promise<Images> {
    await mkdir(options.root, { recursive: true, mode: 0o711 });
    const database = options.database ?? (await openDatabase(options.root));
    database.migrate("image", IMAGE_SCHEMA);
    const content = await ContentStore.open(options.root, database);
    const parallel = options.maxConcurrentDownloads;
    const pool = new WorkerPool();
    const tree = { module: options.treeModule ?? "@berth/kernel", socket: options.serveSocket };
    const { root, hand } = options;
    const choice = await chooseSealed(root, hand, options.snapshotter, options.verity, pool);
    if (options.writableLayerSize !== undefined) await tryLimit(root, hand);
    const snapshotter = await SnapshotStore.open({ root, hand, database, pool, tree, choice });
    const warn = (message: string): void => options.log?.("warn", message);
    const unpacker = new Unpacker({ warn, content, snapshotter, pool, tree, limits: options.limits, parallel });
    const catalog = new Catalog(database, options.pinned ?? []);
    const committer = new Committer({ database, content, snapshotter, unpacker, catalog, warn });
    const restorer = new Restorer({ database, content, snapshotter, pool, tree, limits: options.limits });
    const collector = new Collector({ database, content, snapshotter, catalog });
    const context: PullContext = {
      pool,
      content,
      committer,
      registries: options.registries ?? {},
      retry: options.retry,
      verifier: new Verifier(options.verification ?? {}, hand, options.log ?? (() => undefined)),
      credentials: async (reference) =>
        await nodeCredentials(options.authFile, reference, options.registries ?? {}, hand),
      known: (reference) => catalog.lookup(reference),
    };
    const remote = new Remote({ ...context, catalog, database });
    const images = new Images({
      options,
      database,
      content,
      pool,
      snapshotter,
      unpacker,
      catalog,
      collector,
      restorer,
      context,
      remote,
    });
    images.#tell(await catalog.load(content));
    return images;
  }

  /** Which implementation keeps the layers. */
  get snapshotter(): string {
    return this.#parts.snapshotter.name;
  }

  /**
   * Pulls what `reference` names now, even where it is here already (that it may be pulled is for the registry to say), and
   * resolves once it survives a power cut. Rejects with ImageError; after an abort within 100 ms.
   */
  async pull(reference: string, options: PullOptions = {}): Promise<ImageRecord> {
    const { context } = this.#parts;
    const own = options.progress ?? (() => undefined);
    const id = await this.pulls.track(reference, own, async (progress) =>
      this.#work(
        options.signal,
        async (signal, lease) => await pullImage(reference, { ...options, progress, signal }, lease, context),
      ),
    );
    return this.#record(id);
  }

  /**
   * Imports every image of an OCI layout or docker archive, a tar stream that may be compressed by gzip or zstd. Rejects with
   * ImageError: the image that failed leaves nothing, those before it in the archive stay.
   */
  async importArchive(stream: AsyncIterable<Uint8Array>, options: ImportOptions = {}): Promise<ImageRecord[]> {
    const ids = await this.#work(
      options.signal,
      async (signal, lease) => await importStream(stream, { ...options, signal }, lease, this.#parts.context),
    );
    return [...new Set(ids)].map((id) => this.#record(id));
  }

  /** As importArchive, from a directory with an OCI layout. */
  async importLayout(directory: string, options: ImportOptions = {}): Promise<ImageRecord[]> {
    const ids = await this.#work(
      options.signal,
      async (signal, lease) => await importDirectory(directory, { ...options, signal }, lease, this.#parts.context),
    );
    return [...new Set(ids)].map((id) => this.#record(id));
  }

  /** Push, copy, tags, referrers. */
  get remote(): Remote {
    return this.#parts.remote;
  }

  /** Gives the image that is meant another name, which may have named another one before. Rejects with ImageError NotFound. */
  async tag(referenceOrId: string, name: string): Promise<ImageRecord> {
    const { database, catalog } = this.#parts;
    const reference = referenceOf(name);
    if (reference.digest !== undefined)
      throw new ImageError("InvalidReference", `"${name}" is a digest: a name that is given is a tag`);
    const record = this.#required(referenceOrId);
    const names = [namesOf(referenceOrId), record.tags, record.digests, record.manifest.digest].flat();
    const named = names
      .map((each) => catalog.lookup(each))
      .find((found) => found?.content.manifest.config.digest === record.id);
    if (named === undefined) throw new ImageError("NotFound", `no such image: ${referenceOrId}`);
    const { content, target } = named;
    const targetType = target === content.manifestDigest ? content.manifestType : content.targetType;
    database.transaction(() => catalog.put({ ...content, target, targetType }, [formatReference(reference)]));
    catalog.refresh();
    await database.sync();
    return this.#required(record);
  }

  list(): ImageRecord[] {
    return this.#parts.catalog.list();
  }

  /** By reference in any form, by id, or by an id's first digits (at least four) where they are one image's only. */
  find(referenceOrId: string): ImageRecord | undefined {
    return this.#parts.catalog.find(referenceOrId);
  }

  /**
   * Removes the image that is meant, with all its names. Unknown: nothing to do. Layers that containers use stay until
   * those are removed. Resolves once the removal survives a power cut and its space is free.
   */
  async remove(referenceOrId: string): Promise<void> {
    const record = this.find(referenceOrId);
    if (record === undefined) return;
    const { database, catalog, collector } = this.#parts;
    database.transaction(() => catalog.drop(record.id));
    catalog.refresh();
    await database.sync();
    await collector.collect();
  }

  /**
   * A writable layer on the image, by a key of the caller's (a container's id), of at most `size` bytes (0: without a limit). Rejects
   * with ImageError NotFound, InUse, NoSpace, or Unsupported where the file system has no project quotas.
   */
  async prepareRootfs(key: string, image: string | ImageRecord, size?: number): Promise<Rootfs> {
    const { snapshotter, options } = this.#parts;
    const limit = size ?? options.writableLayerSize ?? 0;
    return await snapshotter.prepare(key, this.#required(image).chainId, limit > 0 ? limit : undefined);
  }

  /** What prepareRootfs answered, also after a restart. */
  rootfs(key: string): Rootfs | undefined {
    return this.#parts.snapshotter.rootfs(key);
  }

  /** Removes a writable layer, which must not be mounted any more. Unknown: nothing to do. */
  async removeRootfs(key: string): Promise<void> {
    const { snapshotter, collector } = this.#parts;
    await snapshotter.remove(key);
    // The last container of a removed image takes the image's layers with it.
    if (collector.hasGarbage()) await collector.collect();
  }

  /** Rejects with ImageError NotFound. */
  async rootfsUsage(key: string): Promise<Usage> {
    return await this.#parts.snapshotter.usage(key);
  }

  /**
   * Makes a layer of what a container has changed: `source` is an archive (pax, with all xattrs) of its overlay's upper directory,
   * `target` the layer, uncompressed. Rejects with ImageError.
   */
  async writeChanges(source: string, target: string, signal?: AbortSignal): Promise<void> {
    await this.#parts.pool.run("changes", { source, target }, { signal });
  }

  /** Unpacks an archive or layer, compressed or not, into an existing directory, an overlay's upper one for instance. Rejects with ImageError. */
  async unpackArchive(path: string, directory: string, signal?: AbortSignal): Promise<void> {
    const { pool, options } = this.#parts;
    const tree = { module: options.treeModule ?? "@berth/kernel", socket: options.serveSocket };
    await pool.run("unpack", { path, directory, tree, limits: options.limits }, { signal });
  }

  /** Of the image's manifest. */
  annotations(image: string | ImageRecord): Readonly<Record<string, string>> {
    return this.#parts.catalog.content(this.#required(image).id)?.manifest.annotations ?? {};
  }

  rootfsKeys(): string[] {
    return this.#parts.snapshotter.list().flatMap((info) => (info.key === undefined ? [] : [info.key]));
  }

  /** The image's own /etc/passwd and /etc/group. */
  async userDatabase(image: string | ImageRecord): Promise<UserDatabase> {
    const { chainId } = this.#required(image);
    if (chainId === undefined) return {};
    let users = this.#users.get(chainId);
    if (users === undefined) {
      users = this.#readUsers(chainId);
      users.catch(() => this.#users.delete(chainId));
      const [oldest] = this.#users.keys();
      if (this.#users.size >= USERS_KEPT && oldest !== undefined) this.#users.delete(oldest);
      this.#users.set(chainId, users);
    }
    return await users;
  }

  /** What blobs, layers and writable layers (as last measured) take. */
  async usage(): Promise<StoreUsage> {
    const { content, snapshotter, options } = this.#parts;
    const blobs = content.usage();
    const layers = snapshotter.total();
    return await Promise.resolve({
      mountpoint: options.root,
      usedBytes: blobs.bytes + layers.bytes,
      inodesUsed: blobs.count + layers.inodes,
    });
  }

  /** The archive of these images, in chunks: an OCI layout that `docker load` takes too. By a name that is given it has that name, otherwise all of its own. Throws ImageError; NotFound for one of another platform. */
  async *exportArchive(
    images: readonly string[],
    { platform }: { readonly platform?: image.Platform } = {},
  ): AsyncGenerator<Uint8Array, void, undefined> {
    using lease = this.#leaseAll();
    void lease;
    yield* exportArchive(this.#exported(images, platform), this.#parts.catalog, this.#parts.content);
  }

  /** As exportArchive, as an OCI layout in a directory. */
  async exportLayout(directory: string, images: readonly string[]): Promise<void> {
    using lease = this.#leaseAll();
    void lease;
    await exportLayout(directory, this.#exported(images), this.#parts.catalog, this.#parts.content);
  }

  /**
   * Verifies every blob and every layer, and finds what has no record; with `repair` puts right what can be. Yields what is
   * wrong. Layers are unpacked once more for it, one at a time.
   */
  async *check(options: CheckOptions = {}): AsyncGenerator<Problem, void, undefined> {
    using lease = this.#leaseAll();
    void lease;
    yield* new Checker(this.#parts, options).run();
  }

  /** What the images take, and what of it only images take that are not in `used` (by id) and not pinned. */
  imageUsage(used: ReadonlySet<string>): { readonly bytes: number; readonly reclaimable: number } {
    const { catalog, content, snapshotter } = this.#parts;
    const kept = catalog.list().filter(({ id, pinned }) => pinned || used.has(id));
    const layers = snapshotter.layerUsage(new Set(kept.flatMap(({ chainId }) => chainId ?? [])));
    const blobs = content.usageOf(kept.map(({ manifest }) => manifest.digest));
    const bytes = layers.bytes + blobs.bytes;
    return { bytes, reclaimable: bytes - layers.kept - blobs.kept };
  }

  /** By id, what each image takes and what of it no other image has. */
  imageSizes(): Map<string, ImageSize> {
    const { catalog, content, snapshotter } = this.#parts;
    return sizesOf(catalog.contents(), (digest) => content.size(digest) ?? 0, snapshotter.list());
  }

  /**
   * At start, before anything else: removes what a crash or power cut left unfinished, and drops images that are not whole
   * any more. Returns what it did, in words.
   */
  async recover(): Promise<string[]> {
    const { content, snapshotter, catalog, collector, restorer, database } = this.#parts;
    dropTemporaryLeases(database);
    const done = [
      ...(await content.recover()),
      ...(await snapshotter.recover()),
      ...(await catalog.load(content, async (image) => await restorer.ensure(image))),
      ...(await snapshotter.forgetDoubtful()),
    ];
    const collected = await collector.collect();
    if (collected > 0) done.push(`removed ${collected} blobs and layers that no image needs`);
    await database.sync();
    snapshotter.settle().catch((error: unknown) => this.#tell([`syncing layers: ${String(error)}`]));
    return done;
  }

  /** Ends pulls under way and waits for what they clean up. */
  async close(): Promise<void> {
    await (this.#closed ??= this.#close());
  }

  async #close(): Promise<void> {
    this.#closing.abort(new ImageError("Canceled", "the image store is closed"));
    await Promise.allSettled(this.#working);
    await this.#parts.unpacker.settled();
    await this.#parts.snapshotter.close();
    await this.#parts.pool.close();
    if (this.#parts.options.database === undefined) await this.#parts.database.close();
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.close();
  }

  /** A pull or import with its lease, ended with whatever it leaves; the caller is answered at an abort, the rest goes on behind. */
  async #work<T>(signal: AbortSignal | undefined, task: (signal: AbortSignal, lease: Lease) => Promise<T>): Promise<T> {
    const both = signal === undefined ? this.#closing.signal : AbortSignal.any([signal, this.#closing.signal]);
    if (both.aborted) throw canceled(both, "pull");
    const { database, unpacker, collector } = this.#parts;
    const lease = new Lease(database, true);
    const work = task(both, lease);
    const ended = work.then(
      () => lease.release(),
      async () => {
        await unpacker.settled();
        lease.release();
        await collector.collect();
      },
    );
    const tracked = ended
      .catch((error: unknown) => this.#tell([`cleaning up after a failed pull: ${String(error)}`]))
      .finally(() => this.#working.delete(tracked));
    this.#working.add(tracked);
    try {
      const result = await raceAbort(work, both);
      await tracked;
      return result as T;
    } catch (error) {
      if (!both.aborted) await tracked;
      throw error;
    }
  }

  /** Keeps all that images have now from being collected. */
  #leaseAll(): Disposable {
    const { database, catalog } = this.#parts;
    const lease = new Lease(database, true);
    for (const { target, manifestDigest, manifest, chainId } of catalog.contents()) {
      lease.content(target, manifestDigest, manifest.config.digest, ...manifest.layers.map(({ digest }) => digest));
      if (chainId !== undefined) lease.chains(chainId);
    }
    return { [Symbol.dispose]: () => lease.release() };
  }

  #exported(images: readonly string[], platform?: image.Platform): ExportedImage[] {
    const byId = new Map<string, { record: ImageRecord; names: Set<string> }>();
    for (const wanted of images) {
      const record = this.#required(wanted);
      if (platform !== undefined) requirePlatform(wanted, record.platform, platform);
      const name = this.#parts.catalog.nameOf(wanted);
      const entry = byId.get(record.id) ?? { record, names: new Set<string>() };
      for (const each of name === undefined ? record.tags : [name]) entry.names.add(each);
      byId.set(record.id, entry);
    }
    return [...byId.values()].map(({ record, names }) => ({ record, names: [...names] }));
  }

  async #readUsers(chainId: string): Promise<UserDatabase> {
    const { snapshotter } = this.#parts;
    const [passwd, group] = await Promise.all(
      ["etc/passwd", "etc/group"].map(async (path) => await snapshotter.readFile(chainId, path, USER_FILE_MAX)),
    );
    // Copies: what was read into is as large as such a file may be.
    return {
      ...(passwd && { passwd: new Uint8Array(passwd) }),
      ...(group && { group: new Uint8Array(group) }),
    };
  }

  #record(id: string): ImageRecord {
    const record = this.#parts.catalog.get(id);
    if (record === undefined) throw new ImageError("NotFound", `image ${id} was removed while it was pulled`);
    return record;
  }

  #required(image: string | ImageRecord): ImageRecord {
    const record = this.find(typeof image === "string" ? image : image.id);
    if (record === undefined)
      throw new ImageError("NotFound", `no such image: ${typeof image === "string" ? image : image.id}; pull it first`);
    return record;
  }

  #tell(messages: readonly string[]): void {
    for (const message of messages) this.#parts.options.log?.("warn", message);
  }
}

/** What a reference is called in the catalog; none where the text is an id's. */
function namesOf(referenceOrId: string): string[] {
  try {
    const reference = referenceOf(referenceOrId);
    return namesFor(reference, reference.digest ?? "").slice(0, 1);
  } catch (error) {
    if (error instanceof ImageError && error.code === "InvalidReference") return [];
    throw error;
  }
}
