/** The end of a pull or an import: layers unpacked, everything durable, then known, in one transaction. */
import { chainIds } from "@berth/spec/oci";
import type { FileSource, RemoteSource } from "./layers/jobs.ts";
import { raceAbort, type Unpacker } from "./layers/unpacker.ts";
import type { Snapshotter } from "./snapshots/snapshotter.ts";
import type { Catalog, ImageContent } from "./store/catalog.ts";
import type { ContentStore } from "./store/content.ts";
import type { Database } from "./store/database.ts";
import type { Lease } from "./store/leases.ts";
import type { Progress } from "./types.ts";

export interface CommitRequest {
  readonly content: ImageContent;
  /** Normalised. */
  readonly references: readonly string[];
  /** Which content keeps which other. */
  readonly refs: readonly (readonly [parent: string, child: string])[];
  readonly source: (digest: string) => RemoteSource | FileSource;
  /** Whether layers are to be stored as they are unpacked: not where they are in the store already. */
  readonly store: boolean;
  readonly lease: Lease;
  readonly signal: AbortSignal | undefined;
  readonly progress: (progress: Progress) => void;
}

export interface CommitterOptions {
  readonly database: Database;
  readonly content: ContentStore;
  readonly snapshotter: Snapshotter;
  readonly unpacker: Unpacker;
  readonly catalog: Catalog;
  readonly warn: (message: string) => void;
}

export class Committer {
  readonly #options: CommitterOptions;

  constructor(options: CommitterOptions) {
    this.#options = options;
  }

  /** Resolves to the image's id once it survives a power cut. */
  async commit(request: CommitRequest): Promise<string> {
    const { database, content: store, snapshotter, unpacker, catalog } = this.#options;
    const { content, signal, lease } = request;
    const { manifest, config } = content;
    const chain = chainIds(config.rootfs.diff_ids);
    lease.chains(...chain);
    const plans = manifest.layers.map((descriptor, index) => ({
      descriptor,
      diffId: config.rootfs.diff_ids[index] as string,
      chainId: chain[index] as string,
      source: request.source(descriptor.digest),
      store: request.store,
    }));
    const holding = await unpacker.unpack(plans, signal, request.progress);
    try {
      const drafts = holding.uncommitted();
      const digests = store.pendingOf(
        new Set([
          content.target,
          content.manifestDigest,
          manifest.config.digest,
          ...manifest.layers.map((layer) => layer.digest),
          ...request.refs.flat(),
        ]),
      );
      await raceAbort(store.sync(digests), signal);
      const taken: string[] = [];
      database.transaction((sql) => {
        store.commit(digests);
        const insert = sql.prepare("INSERT OR IGNORE INTO content_refs (parent, child) VALUES (?, ?)");
        for (const [parent, child] of request.refs) insert.run(parent, child);
        for (const { chainId, draft } of drafts) {
          const parent = chain[chain.indexOf(chainId) - 1];
          if (snapshotter.commit(draft, chainId, parent)) taken.push(chainId);
        }
        catalog.put(content, request.references);
      });
      store.committed(digests);
      for (const chainId of taken) holding.committed(chainId);
      catalog.remember(content);
      catalog.refresh();
    } finally {
      holding.release();
    }
    await database.sync();
    // Blobs and rows survive a power cut from here on; the layers' files are made again from the blobs if they do not.
    snapshotter.settle().catch((error: unknown) => this.#options.warn(`syncing layers: ${String(error)}`));
    return manifest.config.digest;
  }
}
