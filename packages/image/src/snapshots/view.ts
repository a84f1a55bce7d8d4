/**
 * The merged view of unpacked layers, read without mounting them: what overlayfs would show (kernel,
 * Documentation/filesystems/overlayfs.rst), with symlinks followed inside the view only. Layers never change, so that no
 * check is overtaken by a change.
 */
import { S_IFCHR, S_IFDIR, S_IFLNK, S_IFMT, S_IFREG } from "../erofs/format.ts";
import { ImageError } from "../errors.ts";
import { join } from "../layers/paths.ts";
import { type Entry, type LayerFiles, type LayerRef, openLayer } from "./layer-files.ts";

interface ViewLayer {
  readonly files: LayerFiles;
  readonly opaque: ReadonlySet<string>;
}

export interface Found {
  /** Canonical, within the view. */
  readonly path: string;
  readonly entry: Entry;
  /** The layer that it is in. */
  readonly files: LayerFiles;
}

interface Merged extends Found {
  /** The layers that make up this directory, topmost first. */
  readonly layers: readonly ViewLayer[];
}

const HOPS_MAX = 40;

export class LayerView implements Disposable {
  readonly #layers: readonly ViewLayer[];
  readonly #directories = new Map<string, Promise<Merged | undefined>>();

  /** `layers`: topmost first. */
  constructor(layers: readonly LayerRef[]) {
    const cut = layers.findIndex((layer) => layer.opaque.includes(""));
    const shown = cut < 0 ? layers : layers.slice(0, cut + 1);
    const opened: ViewLayer[] = [];
    this.#layers = opened;
    try {
      for (const layer of shown) opened.push({ files: openLayer(layer), opaque: new Set(layer.opaque) });
    } catch (error) {
      this.close();
      throw error;
    }
  }

  close(): void {
    for (const { files } of this.#layers) files.close();
  }

  [Symbol.dispose](): void {
    this.close();
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
      if (isSymlink(found.entry) && (last || pending.length > 0)) {
        if (++hops > HOPS_MAX) return undefined;
        const target = await found.files.target(here);
        if (target.startsWith("/")) at = [];
        pending.unshift(...steps(target));
        continue;
      }
      if (pending.length > 0 && !isDirectory(found.entry)) return undefined;
      at.push(step);
    }
    return await this.#merged(at.join("/"));
  }

  /** The content of a regular file; undefined if there is none at `path`. Throws LimitExceeded past `limit` bytes. */
  async read(path: string, limit: number): Promise<Uint8Array | undefined> {
    const found = await this.resolve(path, true);
    if (found === undefined || !isFile(found.entry)) return undefined;
    if (found.entry.size > limit)
      throw new ImageError("LimitExceeded", `${path} in the image is larger than ${limit} bytes`);
    const parts: Uint8Array[] = [];
    for await (const piece of found.files.content(found.path))
      parts.push(typeof piece === "number" ? new Uint8Array(piece) : piece);
    return Buffer.concat(parts);
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
    const entry = await top?.files.entry("");
    return top === undefined || entry === undefined
      ? undefined
      : { path: "", entry, files: top.files, layers: this.#layers };
  }

  async #look(path: string): Promise<Merged | undefined> {
    if (path === "") return await this.#root();
    const slash = path.lastIndexOf("/");
    const parent = await this.#merged(slash < 0 ? "" : path.slice(0, slash));
    const layers: ViewLayer[] = [];
    let top: { entry: Entry; files: LayerFiles } | undefined;
    for (const layer of parent?.layers ?? []) {
      const entry = await layer.files.entry(path);
      if (entry === undefined) continue;
      if (!isDirectory(entry)) {
        // A whiteout, or something that hides a directory beneath it: in either case nothing further down shows.
        if (top === undefined && !isWhiteout(entry)) return { path, entry, files: layer.files, layers: [] };
        break;
      }
      top ??= { entry, files: layer.files };
      layers.push(layer);
      if (layer.opaque.has(path)) break;
    }
    return top === undefined ? undefined : { path, ...top, layers };
  }
}

export const isDirectory = ({ mode }: Pick<Entry, "mode">): boolean => (mode & S_IFMT) === S_IFDIR;
export const isSymlink = ({ mode }: Pick<Entry, "mode">): boolean => (mode & S_IFMT) === S_IFLNK;
export const isFile = ({ mode }: Pick<Entry, "mode">): boolean => (mode & S_IFMT) === S_IFREG;
export const isWhiteout = ({ mode, major, minor }: Pick<Entry, "mode" | "major" | "minor">): boolean =>
  (mode & S_IFMT) === S_IFCHR && major === 0 && minor === 0;

function steps(path: string): string[] {
  return path.split("/").filter((step) => step !== "" && step !== ".");
}
