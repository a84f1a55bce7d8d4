/**
 * Makes room where the file system of the images fills up, by the kubelet's rules (imageGCHighThresholdPercent and the keys
 * beside it): for nodes without one, and for who wants it done without a pod's waiting for it.
 */
import { statfs } from "node:fs/promises";
import type { CriContext } from "../context.ts";
import type { Log } from "../log.ts";

export interface CollectorPolicy {
  /** Percent of the file system in use from which on images are removed. */
  readonly highPercent: number;
  /** … until no more than so much is in use. */
  readonly lowPercent: number;
  /** Images that were first seen, or last used, within so many milliseconds stay. */
  readonly minimumAgeMs: number;
  readonly periodMs: number;
}

/** Bytes of a file system. */
export interface Room {
  readonly size: number;
  readonly available: number;
}

interface Seen {
  readonly firstSeen: number;
  lastUsed: number;
}

export type CollectorContext = Pick<CriContext, "containers"> & {
  readonly images: Pick<CriContext["images"], "find" | "list" | "remove" | "usage">;
  readonly log: Log;
};

/** Ids of the images that containers are made on or have as volumes, whatever their state. */
export function imagesInUse({ containers, images }: Pick<CollectorContext, "containers" | "images">): Set<string> {
  const used = new Set<string>();
  for (const { record } of containers.values()) {
    used.add(record.imageId);
    for (const { image } of record.config.mounts) {
      const volume = image === undefined || image.image === "" ? undefined : images.find(image.image);
      if (volume !== undefined) used.add(volume.id);
    }
  }
  return used;
}

export class ImageCollector {
  readonly #context: CollectorContext;
  readonly #policy: CollectorPolicy;
  readonly #room: () => Promise<Room>;
  readonly #now: () => number;
  readonly #seen = new Map<string, Seen>();
  #round: Promise<void> = Promise.resolve();
  #timer: NodeJS.Timeout | undefined;

  /** `room` and `now` are for tests. */
  constructor(
    context: CollectorContext,
    policy: CollectorPolicy,
    room: () => Promise<Room> = async () => await roomOf((await context.images.usage()).mountpoint),
    now: () => number = Date.now,
  ) {
    this.#context = context;
    this.#policy = policy;
    this.#room = room;
    this.#now = now;
  }

  start(): void {
    const { log } = this.#context;
    const round = (): void => {
      // Rounds that take longer than a period follow each other.
      this.#round = this.#round
        .then(async () => void (await this.collect()))
        .catch((error: unknown) => log.warn({ error: String(error) }, "collecting images"));
    };
    round();
    this.#timer = setInterval(round, this.#policy.periodMs).unref();
  }

  async [Symbol.asyncDispose](): Promise<void> {
    clearInterval(this.#timer);
    await this.#round;
  }

  /** Looks, and removes what it has to. Resolves to the ids of the images that went. */
  async collect(): Promise<string[]> {
    const { images, log } = this.#context;
    this.#look();
    const { size } = await this.#room();
    const used = async (): Promise<number> => ((size - (await this.#room()).available) * 100) / size;
    const { highPercent, lowPercent } = this.#policy;
    if (size === 0 || (await used()) < highPercent) return [];
    const removed: string[] = [];
    for (const id of this.#candidates()) {
      // Asked anew for each: a container may have been made on it meanwhile.
      if (imagesInUse(this.#context).has(id)) continue;
      await images.remove(id);
      removed.push(id);
      if ((await used()) <= lowPercent) break;
    }
    const percent = Math.round(await used());
    if (removed.length > 0) log.info({ images: removed, percent }, "images removed to make room");
    if (percent > lowPercent)
      log.warn({ percent, lowPercent }, "the images' file system is full, and no image is left that may go");
    return removed;
  }

  #look(): void {
    const now = this.#now();
    const used = imagesInUse(this.#context);
    const here = new Set(this.#context.images.list().map(({ id }) => id));
    for (const id of this.#seen.keys()) if (!here.has(id)) this.#seen.delete(id);
    for (const id of here) {
      const seen = this.#seen.get(id);
      if (seen === undefined) this.#seen.set(id, { firstSeen: now, lastUsed: used.has(id) ? now : 0 });
      else if (used.has(id)) seen.lastUsed = now;
    }
  }

  /** Those that may go, the one that was used longest ago first. */
  #candidates(): string[] {
    const youngest = this.#now() - this.#policy.minimumAgeMs;
    const used = imagesInUse(this.#context);
    return this.#context.images
      .list()
      .filter(({ id, pinned }) => !pinned && !used.has(id))
      .map(({ id }) => ({ id, ...(this.#seen.get(id) as Seen) }))
      .filter(({ firstSeen, lastUsed }) => Math.max(firstSeen, lastUsed) <= youngest)
      .sort((a, b) => a.lastUsed - b.lastUsed || a.firstSeen - b.firstSeen)
      .map(({ id }) => id);
  }
}

async function roomOf(path: string): Promise<Room> {
  const { bsize, blocks, bavail } = await statfs(path);
  return { size: blocks * bsize, available: bavail * bsize };
}
