/**
 * What a layer's tar entries mean, as calls of a TreeWriter: whiteouts become overlayfs's (OCI image specification, "Image
 * Layer Filesystem Changeset"; kernel, Documentation/filesystems/overlayfs.rst), paths are made canonical, and what only the
 * layers beneath can tell (the owner of a directory that this layer does not mention, the target of a hard link into a
 * lower layer) is reported for rebase.ts. Layers are so unpacked at the same time, in any order.
 */
import type { TreeMeta, TreeWriter } from "@berth/kernel";
import { ImageError } from "../errors.ts";
import { attributesOf as keptAttributes } from "./attributes.ts";
import { components, join, toBytes, toName, treePath } from "./paths.ts";
import { printable, type TarEntry, type TarReader } from "./tar.ts";

export interface LayerLimits {
  /** Entries of one layer. */
  readonly entries: number;
  /** Bytes of one layer's files, holes not counted. */
  readonly bytes: number;
}

export const DEFAULT_LIMITS: LayerLimits = { entries: 4_000_000, bytes: 2 ** 40 };

/** Paths here are names as in paths.ts. */
export interface AppliedLayer {
  readonly entries: number;
  /** Estimate of what the tree takes on disk: whole 4 KiB blocks, one for a directory. */
  readonly bytes: number;
  readonly inodes: number;
  /** Directories that hold entries but are not mentioned: made 0755 root, to be given a lower layer's attributes. */
  readonly implied: readonly string[];
  /** Directories that hide what lower layers have in them. "" hides everything beneath this layer. */
  readonly opaque: readonly string[];
  /** Hard links whose target this layer does not have. */
  readonly missingLinks: readonly { readonly path: string; readonly target: string }[];
}

export interface ApplyOptions {
  readonly limits?: LayerLimits;
  /** Symlinks of lower layers that entries of this layer go through: path → target. Found by rebase.ts. */
  readonly aliases?: ReadonlyMap<string, string>;
}

const WHITEOUT_PREFIX = ".wh.";
const OPAQUE_MARKER = ".wh..wh..opq";
const AUFS_PREFIX = ".wh..wh.";
const OPAQUE_XATTR = "trusted.overlay.opaque";
const YES = toBytes("y");
const S_IFCHR = 0o020000;
const S_IFBLK = 0o060000;
const S_IFIFO = 0o010000;
const HOPS_MAX = 40;
const PATH_MAX = 4095;
const BLOCK = 4096;
const MADE: Attributes = { mode: 0o755, meta: { uid: 0, gid: 0, mtime: 0n } };

interface Attributes {
  readonly mode: number;
  readonly meta: TreeMeta;
}

class Directory {
  readonly kind = "directory";
  readonly children = new Map<string, Node>();
  /** Absent: implied, attributes are a lower layer's. */
  attributes: Attributes | undefined;
  opaque = false;
}
interface Link {
  readonly kind: "symlink";
  readonly target: string;
}
interface Leaf {
  readonly kind: "other" | "whiteout" | "missing";
}
type Node = Directory | Link | Leaf;
interface Place {
  readonly directory: Directory;
  readonly path: string;
}
const OTHER: Leaf = { kind: "other" };
const WHITEOUT: Leaf = { kind: "whiteout" };

/** Unpacks one layer. Throws InvalidImage or LimitExceeded; what was written stays for the caller to remove. */
export async function applyLayer(tar: TarReader, tree: TreeWriter, options: ApplyOptions = {}): Promise<AppliedLayer> {
  const layer = new Layer(tar, tree, options);
  for (let entry = await tar.next(); entry !== undefined; entry = await tar.next()) await layer.add(entry);
  return layer.result();
}

class Layer {
  readonly #tar: TarReader;
  readonly #tree: TreeWriter;
  readonly #limits: LayerLimits;
  readonly #aliases: ReadonlyMap<string, string>;
  readonly #root = new Directory();
  readonly #links: { path: string; target: string; node: Leaf; parent: Directory; name: string }[] = [];
  #entries = 0;
  #bytes = 0;
  #content = 0;
  #inodes = 1;
  /** The last parent looked up, as entries mostly come directory by directory. */
  #last: (Place & { raw: string }) | undefined;

  constructor(tar: TarReader, tree: TreeWriter, options: ApplyOptions) {
    this.#tar = tar;
    this.#tree = tree;
    this.#limits = options.limits ?? DEFAULT_LIMITS;
    this.#aliases = options.aliases ?? new Map();
  }

  async add(entry: TarEntry): Promise<void> {
    if (++this.#entries > this.#limits.entries)
      throw new ImageError(
        "LimitExceeded",
        `the layer has more than ${this.#limits.entries} entries (limit layer.entries)`,
      );
    if (entry.path.length > PATH_MAX)
      throw new ImageError(
        "InvalidImage",
        `a path of ${entry.path.length} bytes: "${printable(entry.path.subarray(0, 80))}…" (at most ${PATH_MAX})`,
      );
    if (entry.link.length > PATH_MAX)
      throw new ImageError(
        "InvalidImage",
        `"${printable(entry.path)}" links to a path of ${entry.link.length} bytes (at most ${PATH_MAX})`,
      );
    const parts = components(toName(entry.path));
    const name = parts.pop();
    if (name === undefined) return await this.#rootEntry(entry);
    if (parts.some((part) => part.startsWith(AUFS_PREFIX))) return;
    const { directory, path } = await this.#parent(parts);
    if (name.startsWith(WHITEOUT_PREFIX)) return await this.#whiteout(name, directory, path);
    await this.#place(entry, directory, name, join(path, name));
  }

  result(): AppliedLayer {
    const implied: string[] = [];
    const opaque: string[] = [];
    const walk = (directory: Directory, path: string): void => {
      if (directory.attributes === undefined) implied.push(path);
      if (directory.opaque) opaque.push(path);
      for (const [name, child] of directory.children) if (child.kind === "directory") walk(child, join(path, name));
    };
    walk(this.#root, "");
    const missingLinks = this.#links
      .filter((link) => link.parent.children.get(link.name) === link.node)
      .map(({ path, target }) => ({ path, target }));
    return { entries: this.#entries, bytes: this.#bytes, inodes: this.#inodes, implied, opaque, missingLinks };
  }

  async #rootEntry(entry: TarEntry): Promise<void> {
    if (entry.type !== "directory") return;
    this.#root.attributes = attributesOf(entry);
    await this.#writeDirectory(this.#root, "");
  }

  async #place(entry: TarEntry, directory: Directory, name: string, path: string): Promise<void> {
    const before = directory.children.get(name);
    if (entry.type === "directory") {
      // Over a whiteout of this same layer the directory starts empty; over a directory of this layer it keeps what is in it.
      const node = before?.kind === "directory" ? before : new Directory();
      node.attributes = attributesOf(entry);
      if (before?.kind === "whiteout") node.opaque = true;
      if (node !== before) this.#put(directory, name, node, BLOCK);
      return await this.#writeDirectory(node, path);
    }
    const meta = metaOf(entry);
    switch (entry.type) {
      case "file":
        this.#put(directory, name, OTHER, 0);
        return await this.#writeFile(entry, path, meta);
      case "symlink":
        this.#put(directory, name, { kind: "symlink", target: toName(entry.link) }, 0);
        return await this.#tree.symlink(toBytes(path), entry.link, meta);
      case "hardlink":
        return await this.#hardlink(entry, directory, name, path);
      case "fifo":
        this.#put(directory, name, OTHER, 0);
        return await this.#tree.node(toBytes(path), S_IFIFO | entry.mode, 0, 0, meta);
      case "character":
      case "block": {
        const type = entry.type === "character" ? S_IFCHR : S_IFBLK;
        this.#put(directory, name, type === S_IFCHR && entry.major === 0 && entry.minor === 0 ? WHITEOUT : OTHER, 0);
        return await this.#tree.node(toBytes(path), type | entry.mode, entry.major, entry.minor, meta);
      }
    }
  }

  async #writeFile(entry: TarEntry, path: string, meta: TreeMeta): Promise<void> {
    await this.#tree.file(toBytes(path), entry.mode, BigInt(entry.size), meta);
    for (let piece = await this.#tar.read(); piece !== undefined; piece = await this.#tar.read()) {
      if (typeof piece === "number") {
        await this.#tree.hole(BigInt(piece));
        continue;
      }
      this.#content += piece.length;
      this.#bytes += piece.length;
      if (this.#content > this.#limits.bytes)
        throw new ImageError(
          "LimitExceeded",
          `the layer's files are larger than ${this.#limits.bytes} bytes (limit layer.bytes)`,
        );
      await this.#tree.data(piece);
    }
    this.#bytes += (BLOCK - (entry.size % BLOCK)) % BLOCK;
  }

  async #hardlink(entry: TarEntry, directory: Directory, name: string, path: string): Promise<void> {
    const parts = components(toName(entry.link));
    const base = parts.pop();
    if (base === undefined) throw new ImageError("InvalidImage", `hard link "${path}" to the root directory`);
    const parent = await this.#walk(parts, parts.join("/"), false);
    const target = parent?.directory.children.get(base);
    const targetPath = join(parent?.path ?? parts.join("/"), base);
    if (targetPath === path) return;
    if (target === undefined || target.kind === "missing" || target.kind === "whiteout") {
      const node: Leaf = { kind: "missing" };
      this.#put(directory, name, node, 0);
      this.#links.push({ path, target: targetPath, node, parent: directory, name });
      return;
    }
    if (target.kind === "directory")
      throw new ImageError("InvalidImage", `hard link "${path}" to the directory "${targetPath}"`);
    directory.children.set(name, target);
    this.#last = undefined;
    await this.#tree.hardlink(toBytes(path), toBytes(targetPath));
  }

  async #whiteout(name: string, directory: Directory, path: string): Promise<void> {
    if (name === OPAQUE_MARKER) return await this.#makeOpaque(directory, path);
    if (name.startsWith(AUFS_PREFIX)) return;
    const hidden = name.slice(WHITEOUT_PREFIX.length);
    if (hidden === "" || hidden === "." || hidden === "..")
      throw new ImageError("InvalidImage", `whiteout "${join(path, name)}" names nothing`);
    const here = directory.children.get(hidden);
    // A whiteout hides lower layers only: what this layer has by that name stays, wherever in the archive it comes.
    if (here?.kind === "directory") return await this.#makeOpaque(here, join(path, hidden));
    if (here !== undefined) return;
    this.#put(directory, hidden, WHITEOUT, 0);
    await this.#tree.node(toBytes(join(path, hidden)), S_IFCHR, 0, 0, MADE.meta);
  }

  async #makeOpaque(directory: Directory, path: string): Promise<void> {
    if (directory.opaque) return;
    directory.opaque = true;
    if (path !== "") await this.#writeDirectory(directory, path);
  }

  async #writeDirectory(directory: Directory, path: string): Promise<void> {
    const { mode, meta } = directory.attributes ?? MADE;
    const opaque =
      directory.opaque && path !== ""
        ? { ...meta, xattrs: new Map([...(meta.xattrs ?? []), [OPAQUE_XATTR, YES] as const]) }
        : meta;
    await this.#tree.directory(treePath(path), mode, opaque);
  }

  #put(directory: Directory, name: string, node: Node, bytes: number): void {
    directory.children.set(name, node);
    this.#last = undefined;
    this.#inodes++;
    this.#bytes += bytes;
  }

  /** The directory that `parts` name, made where the layer has not mentioned it. */
  async #parent(parts: readonly string[]): Promise<Place> {
    const raw = parts.join("/");
    if (this.#last?.raw === raw) return this.#last;
    const found = (await this.#walk(parts, raw, true)) as Place;
    this.#last = { raw, ...found };
    return found;
  }

  /** Follows symlinks within the layer; ".." at the root stays there. Undefined only without `make`. */
  async #walk(parts: readonly string[], raw: string, make: boolean): Promise<Place | undefined> {
    const pending = [...parts];
    const root: Place = { directory: this.#root, path: "" };
    let trail = [root];
    let hops = 0;
    for (let part = pending.shift(); part !== undefined; part = pending.shift()) {
      if (part === "..") {
        if (trail.length > 1) trail.pop();
        continue;
      }
      const here = trail.at(-1) ?? root;
      const path = join(here.path, part);
      const child = here.directory.children.get(part) ?? this.#alias(path);
      if (child?.kind === "symlink") {
        if (++hops > HOPS_MAX)
          throw new ImageError("InvalidImage", `"${raw}" goes through more than ${HOPS_MAX} symlinks`);
        if (child.target.startsWith("/")) trail = [root];
        pending.unshift(...child.target.split("/").filter((step) => step !== "" && step !== "."));
      } else if (child?.kind === "directory") {
        trail.push({ directory: child, path });
      } else if (!make) {
        return undefined;
      } else if (child === undefined || child.kind === "whiteout") {
        trail.push({ directory: await this.#imply(here.directory, part, path, child !== undefined), path });
      } else {
        throw new ImageError("InvalidImage", `"${raw}" goes through "${path}", which is no directory`);
      }
    }
    return trail.at(-1) ?? root;
  }

  async #imply(parent: Directory, name: string, path: string, hidden: boolean): Promise<Directory> {
    if (name.startsWith(WHITEOUT_PREFIX))
      throw new ImageError("InvalidImage", `"${path}" as a directory: only whiteouts may have such a name`);
    const directory = new Directory();
    if (hidden) {
      directory.opaque = true;
      directory.attributes = MADE;
    }
    parent.children.set(name, directory);
    this.#inodes++;
    this.#bytes += BLOCK;
    await this.#writeDirectory(directory, path);
    return directory;
  }

  #alias(path: string): Link | undefined {
    const target = this.#aliases.get(path);
    return target === undefined ? undefined : { kind: "symlink", target };
  }
}

function attributesOf(entry: TarEntry): Attributes {
  return { mode: entry.mode, meta: metaOf(entry) };
}

/** What is said to be -1 is nobody's id: chown(2) leaves the maker's then, as it does for those who unpack as root. */
const idOf = (id: number): number => (id === 0xffffffff ? 0 : id);

function metaOf(entry: TarEntry): TreeMeta {
  const { mtime, xattrs } = entry;
  const [uid, gid] = [idOf(entry.uid), idOf(entry.gid)];
  return xattrs.size === 0 ? { uid, gid, mtime } : { uid, gid, mtime, xattrs: keptAttributes(entry) };
}
