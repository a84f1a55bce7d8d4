/** Layers made again from their blobs: what a power cut took, another snapshotter had, or fsck found damaged. */
import { chainIds } from "@berth/spec/oci";
import { ImageError } from "../errors.ts";
import type { LayerLimits } from "../layers/apply.ts";
import type { TreeSource } from "../layers/jobs.ts";
import type { WorkerPool } from "../layers/pool.ts";
import type { LayerDraft, Snapshotter } from "../snapshots/snapshotter.ts";
import type { ImageContent } from "./catalog.ts";
import type { ContentStore } from "./content.ts";
import type { Database } from "./database.ts";

export interface RestorerOptions {
  readonly database: Database;
  readonly content: ContentStore;
  readonly snapshotter: Snapshotter;
  readonly pool: WorkerPool;
  readonly tree: TreeSource;
  readonly limits?: LayerLimits | undefined;
}

export class Restorer {
  readonly #options: RestorerOptions;

  constructor(options: RestorerOptions) {
    this.#options = options;
  }

  /** Makes what is missing or doubtful of an image's layers. Returns what it did. Throws NotFound where a blob is not here, and as unpacking does. */
  async ensure(image: ImageContent): Promise<string[]> {
    const { snapshotter, database } = this.#options;
    const doubtful = new Set(snapshotter.doubtful());
    const done: string[] = [];
    const chain = chainIds(image.config.rootfs.diff_ids);
    for (const [index, chainId] of chain.entries()) {
      const there = snapshotter.has(chainId);
      if (there && !doubtful.has(chainId)) continue;
      const draft = await this.make(image, index);
      if (there) await snapshotter.replace(draft, chainId);
      else database.transaction(() => snapshotter.commit(draft, chainId, chain[index - 1]));
      done.push(`unpacked layer ${image.manifest.layers[index]?.digest} again`);
    }
    return done;
  }

  /** The image's layer at `index`, filled and completed; those beneath it are there. The caller commits or abandons it. */
  async make(image: ImageContent, index: number): Promise<LayerDraft> {
    const { snapshotter, content, pool, tree, limits } = this.#options;
    const descriptor = image.manifest.layers[index];
    const diffId = image.config.rootfs.diff_ids[index];
    if (descriptor === undefined || diffId === undefined || !content.has(descriptor.digest))
      throw new ImageError("NotFound", `blob ${descriptor?.digest} is not in the content store`);
    const below = chainIds(image.config.rootfs.diff_ids)
      .slice(0, index)
      .map((chainId) => ({ chainId }));
    const draft = await snapshotter.begin();
    const source = { kind: "file", path: content.path(descriptor.digest) } as const;
    try {
      let aliases: ReadonlyMap<string, string> | undefined;
      for (let round = 0; round <= ALIAS_ROUNDS; round++) {
        const request = { source, descriptor, diffId, target: draft.target, tree, limits, aliases };
        aliases = await snapshotter.complete(draft, await pool.run("layer", request), below);
        if (aliases.size === 0) return draft;
        await snapshotter.reset(draft);
      }
      throw new ImageError("InvalidImage", `layer ${descriptor.digest} goes through too many symlinks of lower layers`);
    } catch (error) {
      await snapshotter.abandon(draft);
      throw error;
    }
  }
}

const ALIAS_ROUNDS = 8;
