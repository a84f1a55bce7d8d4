import type { Hand } from "@berth/kernel";
import type { ImageRecord, ImportOptions, Log, PullOptions, Rootfs, StoreUsage, Usage, UserDatabase } from "./types.ts";
import type { Database } from "./store/database.ts";

export interface ImagesOptions {
  /** The state directory, /var/lib/berth: content, snapshots and berth.db live there. Made if missing. */
  readonly root: string;
  readonly hand: Hand;
  /** bosun serve's socket: the workers that unpack layers connect to it themselves. */
  readonly serveSocket: string;
  /** containerd's certs.d: a directory of <host>/hosts.toml. Read at every pull. */
  readonly hostsDir?: string;
  /** The database opened on `root`, where it is shared; else Images opens and closes its own. */
  readonly database?: Database;
  /** References whose images are `pinned`; a trailing "*" matches any rest. */
  readonly pinned?: readonly string[];
  readonly log?: Log;
}

export declare class Images {
  static open(options: ImagesOptions): Promise<Images>;
  pull(reference: string, options?: PullOptions): Promise<ImageRecord>;
  list(): ImageRecord[];
  find(referenceOrId: string): ImageRecord | undefined;
  remove(referenceOrId: string): Promise<void>;
  importArchive(stream: AsyncIterable<Uint8Array>, options?: ImportOptions): Promise<ImageRecord[]>;
  importLayout(directory: string, options?: ImportOptions): Promise<ImageRecord[]>;
  prepareRootfs(key: string, image: string | ImageRecord): Promise<Rootfs>;
  removeRootfs(key: string): Promise<void>;
  rootfs(key: string): Rootfs | undefined;
  rootfsUsage(key: string): Promise<Usage>;
  rootfsKeys(): string[];
  userDatabase(image: string | ImageRecord): Promise<UserDatabase>;
  usage(): Promise<StoreUsage>;
  recover(): Promise<string[]>;
  close(): Promise<void>;
  [Symbol.asyncDispose](): Promise<void>;
}
