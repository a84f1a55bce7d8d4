/**
 * The merged view of unpacked layers, read without mounting them: what overlayfs would show (kernel,
 * Documentation/filesystems/overlayfs.rst), with symlinks followed inside the view only. Layers never change, so that no
 * check is overtaken by a change.
 */
import type { BigIntStats } from "node:fs";
import { constants, lstat, open, readlink } from "node:fs/promises";
import { ImageError } from "../errors.ts";
import { join, toBytes, toName } from "../layers/paths.ts";

export interface ViewLayer {
  readonly directory: string;
  /** Paths (names as in layers/paths.ts) of directories that hide what is beneath. */
  readonly opaque: ReadonlySet<string>;
}

export interface Found {
  /** Canonical, within the view. */
  readonly path: string;
  /** On the host, as bytes. */
  readonly host: Buffer;
  readonly stat: BigIntStats;
}

interface Merged extends Found {
  /** The layers that make up this directory, topmost first. */
  readonly layers: readonly ViewLayer[];
}

const HOPS_MAX = 40;

export class LayerView {
  readonly #layers: readonly ViewLayer[];
  readonly #directories = new Map<string, Promise<Merged | undefined>>();

  /** `layers`: topmost first. */
  constructor(layers: readonly ViewLayer[]) {
    const cut = layers.findIndex((layer) => layer.opaque.has(""));
    this.#layers = cut < 0 ? layers : layers.slice(0, cut + 1);
  }

  /** What is at the canonical path `path`; no symlink is followed. */
  async find(path: string): Promise<Found | undefined> {
    return await this.#merged(path);
  }

  /** As find, following symlinks in the parents and, with `last`, of the path itself. Undefined also for a loop. */
  async resolve(path: string, last: boolean): Promise<Found | undefined> {
    const pending = steps(path);
    let at: string[] = [];
    let hops = 0;
    for (let step = pending.shift(); step !== undefined; step = pending.shift()) {
      if (step === "..") {
        at.pop();
        continue;
      }
      const here = join(at.join("/"), step);
      const found = await this.#merged(here);
      if (found === undefined) return undefined;
      if (found.stat.isSymbolicLink() && (last || pending.length > 0)) {
        if (++hops > HOPS_MAX) return undefined;
        const target = toName(await readlink(found.host, { encoding: "buffer" }));
        if (target.startsWith("/")) at = [];
        pending.unshift(...steps(target));
        continue;
      }
      if (pending.length > 0 && !found.stat.isDirectory()) return undefined;
      at.push(step);
    }
    return await this.#merged(at.join("/"));
  }

  /** The content of a regular file; undefined if there is none at `path`. Throws LimitExceeded past `limit` bytes. */
  async read(path: string, limit: number): Promise<Uint8Array | undefined> {
    const found = await this.resolve(path, true);
    if (found === undefined || !found.stat.isFile()) return undefined;
    if (found.stat.size > BigInt(limit))
      throw new ImageError("LimitExceeded", `${path} in the image is larger than ${limit} bytes`);
    const file = await open(found.host, constants.O_RDONLY | constants.O_NOFOLLOW);
    try {
      return await file.readFile();
    } finally {
      await file.close();
    }
  }

  #merged(path: string): Promise<Merged | undefined> {
    const known = this.#directories.get(path);
    if (known !== undefined) return known;
    const looked = this.#look(path);
    this.#directories.set(path, looked);
    return looked;
  }

  /** Every layer has a root. */
  async #root(): Promise<Merged | undefined> {
    const [top] = this.#layers;
    if (top === undefined) return undefined;
    const host = Buffer.from(top.directory);
    return { path: "", host, stat: await lstat(host, { bigint: true }), layers: this.#layers };
  }

  async #look(path: string): Promise<Merged | undefined> {
    if (path === "") return await this.#root();
    const slash = path.lastIndexOf("/");
    const parent = await this.#merged(slash < 0 ? "" : path.slice(0, slash));
    const layers: ViewLayer[] = [];
    let top: { host: Buffer; stat: BigIntStats } | undefined;
    for (const layer of parent?.layers ?? []) {
      const host = Buffer.concat([Buffer.from(layer.directory), toBytes(`/${path}`)]);
      const stat = await lstatOrAbsent(host);
      if (stat === undefined) continue;
      if (!stat.isDirectory()) {
        // A whiteout, or something that hides a directory beneath it: in either case nothing further down shows.
        if (top === undefined && !isWhiteout(stat)) return { path, host, stat, layers: [] };
        break;
      }
      top ??= { host, stat };
      layers.push(layer);
      if (layer.opaque.has(path)) break;
    }
    return top === undefined ? undefined : { path, ...top, layers };
  }
}

export function isWhiteout(stat: BigIntStats): boolean {
  return stat.isCharacterDevice() && stat.rdev === 0n;
}

async function lstatOrAbsent(path: Buffer): Promise<BigIntStats | undefined> {
  try {
    return await lstat(path, { bigint: true });
  } catch (error) {
    const { code } = error as { code?: string };
    if (code === "ENOENT" || code === "ENOTDIR") return undefined;
    throw error;
  }
}

function steps(path: string): string[] {
  return path.split("/").filter((step) => step !== "" && step !== ".");
}
