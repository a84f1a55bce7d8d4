/** What a tree writer was told, as plain as can be; and an EROFS image read back into the same form, to be compared. */
import assert from "node:assert/strict";
import { createHash, type Hash } from "node:crypto";
import type { TreeMeta, TreeWriter } from "@berth/kernel";
import { ErofsImage, type InodeInfo } from "../../src/erofs/reader.ts";
import { toName } from "../../src/layers/paths.ts";
import { entryOf } from "../../src/snapshots/layer-files.ts";

export interface Fields {
  readonly type: string;
  readonly mode: number;
  readonly uid: number;
  readonly gid: number;
  readonly mtime: string;
  readonly xattrs: Readonly<Record<string, string>>;
  /** Of a file: its size, and what is in it. */
  content?: string;
  size?: number;
  target?: string;
  device?: string;
  /** Of what is no directory: the first of its names. */
  same?: string;
}

/** By path; "" is the root. */
export type Shape = Record<string, Fields>;

const BLOCK = 4096;

/** A file's content where it is not zero: holes and zeros are the same, however large they are. */
class Content {
  readonly #hash: Hash = createHash("sha256");
  readonly #block = Buffer.alloc(BLOCK);
  #at = 0;

  add(bytes: Uint8Array): void {
    for (let from = 0; from < bytes.length;) {
      const within = this.#at % BLOCK;
      const piece = bytes.subarray(from, from + BLOCK - within);
      this.#block.set(piece, within);
      from += piece.length;
      this.#move(piece.length);
    }
  }

  skip(length: number): void {
    const rest = Math.min(length, (BLOCK - (this.#at % BLOCK)) % BLOCK);
    this.#move(rest);
    this.#at += length - rest - ((length - rest) % BLOCK);
    this.#move((length - rest) % BLOCK);
  }

  end(): Pick<Fields, "size" | "content"> {
    if (this.#at % BLOCK !== 0) this.#flush(Math.floor(this.#at / BLOCK));
    return { size: this.#at, content: this.#hash.digest("hex") };
  }

  #move(length: number): void {
    const block = Math.floor(this.#at / BLOCK);
    this.#at += length;
    if (length > 0 && this.#at % BLOCK === 0) this.#flush(block);
  }

  #flush(block: number): void {
    if (this.#block.some((byte) => byte !== 0)) this.#hash.update(`${block}:`).update(this.#block);
    this.#block.fill(0);
  }
}

interface Node {
  readonly fields: Fields;
  readonly children: Map<string, Node> | undefined;
}

/** Checks of each call that its path is canonical and leads through directories, and passes it on. */
export class ModelTree implements TreeWriter {
  readonly #inner: TreeWriter;
  #root: Node = node("directory", 0o755, { uid: 0, gid: 0, mtime: 0n });
  #file: { content: Content; left: bigint; into: Node } | undefined;

  constructor(inner: TreeWriter) {
    this.#inner = inner;
  }

  shape(): Shape {
    const found: Shape = {};
    const first = new Map<Node, string>();
    walk(this.#root, "", (path, { fields, children }, itself) => {
      found[path] = children === undefined ? linked(fields, first, itself, path) : fields;
    });
    return single(found);
  }

  async directory(path: Uint8Array, mode: number, meta: TreeMeta): Promise<void> {
    const made = node("directory", mode, meta);
    const name = toName(path);
    if (name === ".") this.#root = { fields: made.fields, children: this.#root.children };
    else this.#put(name, made, true);
    await this.#inner.directory(path, mode, meta);
  }

  async file(path: Uint8Array, mode: number, size: bigint, meta: TreeMeta): Promise<void> {
    const into = node("file", mode, meta);
    this.#put(toName(path), into);
    this.#file = { content: new Content(), left: size, into };
    this.#pass(0n);
    await this.#inner.file(path, mode, size, meta);
  }

  async data(bytes: Uint8Array): Promise<void> {
    this.#file?.content.add(bytes);
    this.#pass(BigInt(bytes.length));
    await this.#inner.data(bytes);
  }

  async hole(length: bigint): Promise<void> {
    this.#file?.content.skip(Number(length));
    this.#pass(length);
    await this.#inner.hole(length);
  }

  async symlink(path: Uint8Array, target: Uint8Array, meta: TreeMeta): Promise<void> {
    const made = node("symlink", 0o777, meta);
    made.fields.target = toName(target);
    this.#put(toName(path), made);
    await this.#inner.symlink(path, target, meta);
  }

  async hardlink(path: Uint8Array, target: Uint8Array): Promise<void> {
    const { directory, base } = this.#place(toName(target));
    const found = directory.get(base);
    assert.ok(found?.children === undefined && found !== undefined, `hard link to ${toName(target)}`);
    this.#put(toName(path), found);
    await this.#inner.hardlink(path, target);
  }

  async node(path: Uint8Array, mode: number, major: number, minor: number, meta: TreeMeta): Promise<void> {
    const made = node(TYPES[mode & 0o170000] as string, mode, meta);
    made.fields.device = `${major}:${minor}`;
    this.#put(toName(path), made);
    await this.#inner.node(path, mode, major, minor, meta);
  }

  async end(sync: boolean): Promise<void> {
    assert.equal(this.#file, undefined, "every file is filled");
    await this.#inner.end(sync);
  }

  async abort(): Promise<void> {
    await this.#inner.abort();
  }

  #pass(length: bigint): void {
    const file = this.#file;
    assert.ok(file !== undefined && file.left >= length, "no more data than a file has");
    file.left -= length;
    if (file.left > 0n) return;
    Object.assign(file.into.fields, file.content.end());
    this.#file = undefined;
  }

  #put(path: string, made: Node, merge = false): void {
    assert.equal(this.#file, undefined, "a file is filled before the next entry");
    const { directory, base } = this.#place(path);
    const before = merge ? directory.get(base)?.children : undefined;
    directory.set(base, before === undefined ? made : { fields: made.fields, children: before });
  }

  #place(path: string): { directory: Map<string, Node>; base: string } {
    const parts = path.split("/");
    const base = parts.pop() as string;
    assert.ok(
      [...parts, base].every((part) => part !== "" && part !== "." && part !== ".." && !part.includes("\0")),
      path,
    );
    let directory = this.#root.children as Map<string, Node>;
    for (const part of parts) {
      const next = directory.get(part)?.children;
      assert.ok(next !== undefined, `${path} goes through something that is no directory`);
      directory = next;
    }
    return { directory, base };
  }
}

/** Every inode, name and block of the image. */
export function shapeOfImage(path: string): Shape {
  const image = ErofsImage.open(path);
  try {
    const found: Shape = {};
    const first = new Map<number, string>();
    const visit = (at: string, inode: InodeInfo): void => {
      const fields = fieldsOf(image, inode);
      const directory = fields.type === "directory";
      found[at] = directory ? fields : linked(fields, first, inode.nid, at);
      if (!directory) return;
      for (const { name, nid } of image.list(inode)) visit(`${at}/${name}`, image.inode(nid));
    };
    visit("", image.root);
    return single(found);
  } finally {
    image.close();
  }
}

function fieldsOf(image: ErofsImage, inode: InodeInfo): Fields {
  const { uid, gid, mtime, mode } = inode;
  const { fields } = node(TYPES[mode & 0o170000] as string, mode, { uid, gid, mtime, xattrs: image.xattrs(inode) });
  if (fields.type === "symlink") fields.target = toName(image.content(inode));
  if (["character", "block", "fifo"].includes(fields.type)) {
    const { major, minor } = entryOf(inode);
    fields.device = `${major}:${minor}`;
  }
  if (fields.type !== "file") return fields;
  const content = new Content();
  for (const piece of image.pieces(inode))
    if (typeof piece === "number") content.skip(piece);
    else content.add(piece);
  return Object.assign(fields, content.end());
}

const TYPES: Readonly<Record<number, string>> = {
  0o040000: "directory",
  0o100000: "file",
  0o120000: "symlink",
  0o020000: "character",
  0o060000: "block",
  0o010000: "fifo",
};

/** Attributes of namespaces that Linux does not have are the writer's to leave out. */
const KNOWN = /^(user|trusted|security)\.|^system\.posix_acl_(access|default)$/;

function node(type: string, mode: number, { uid, gid, mtime, xattrs }: TreeMeta): Node {
  const attributes = [...(xattrs ?? [])].filter(([name]) => KNOWN.test(name));
  const values = Object.fromEntries(attributes.map(([name, value]) => [name, toName(value)]));
  const fields: Fields = { type, mode: mode & 0o7777, uid, gid, mtime: String(mtime), xattrs: values };
  return { fields, children: type === "directory" ? new Map<string, Node>() : undefined };
}

function walk(at: Node, path: string, visit: (path: string, node: Node, itself: Node) => void): void {
  visit(path, at, at);
  for (const [name, child] of at.children ?? []) walk(child, `${path}/${name}`, visit);
}

function linked<T>(fields: Fields, first: Map<T, string>, of: T, path: string): Fields {
  const before = first.get(of);
  if (before === undefined) first.set(of, path);
  return { ...fields, same: before ?? path };
}

/** Which of a file's names comes first is no property of the tree: the smallest stands for them. */
function single(shape: Shape): Shape {
  const names = Map.groupBy(Object.entries(shape), ([path, { same }]) => same ?? path);
  for (const group of names.values()) {
    const smallest = group.map(([path]) => path).sort()[0];
    for (const [, fields] of group) if (fields.same !== undefined && smallest !== undefined) fields.same = smallest;
  }
  return shape;
}
