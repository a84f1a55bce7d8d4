/** TreeWriters for tests: one that remembers, and one on plain files for machines without bosun's build. */
import { execFileSync } from "node:child_process";
import {
  chmodSync,
  lchownSync,
  linkSync,
  lstatSync,
  mkdirSync,
  rmSync,
  symlinkSync,
  openSync,
  closeSync,
  writeSync,
  ftruncateSync,
  lutimesSync,
} from "node:fs";
import { dirname, join } from "node:path";
import type { Hand, TreeMeta, TreeWriter } from "@berth/kernel";

export interface Made {
  kind: "directory" | "file" | "symlink" | "hardlink" | "node";
  mode?: number;
  data?: Buffer;
  target?: string;
  major?: number;
  minor?: number;
  meta?: TreeMeta;
}

/** Keeps what a real writer would have made, by path ("." is the root), and every call in order. */
export class MemoryTree implements TreeWriter {
  readonly made = new Map<string, Made>();
  readonly calls: string[] = [];
  ended = false;
  aborted = false;
  #file: Made | undefined;
  #left = 0n;

  #put(path: Uint8Array, made: Made): Promise<void> {
    if (this.#left !== 0n) throw new Error(`file not filled before ${Buffer.from(path).toString("latin1")}`);
    const name = Buffer.from(path).toString("latin1");
    this.calls.push(`${made.kind} ${name}`);
    const before = this.made.get(name);
    if (before?.kind === "directory" && made.kind !== "directory")
      for (const other of this.made.keys()) if (other.startsWith(`${name}/`)) this.made.delete(other);
    this.made.set(name, made);
    return Promise.resolve();
  }

  directory(path: Uint8Array, mode: number, meta: TreeMeta): Promise<void> {
    return this.#put(path, { kind: "directory", mode, meta });
  }
  file(path: Uint8Array, mode: number, size: bigint, meta: TreeMeta): Promise<void> {
    const made: Made = { kind: "file", mode, meta, data: Buffer.alloc(0) };
    const put = this.#put(path, made);
    this.#file = made;
    this.#left = size;
    return put;
  }
  data(bytes: Uint8Array): Promise<void> {
    if (this.#file === undefined || BigInt(bytes.length) > this.#left) throw new Error("data without room");
    this.#left -= BigInt(bytes.length);
    this.#file.data = Buffer.concat([this.#file.data ?? Buffer.alloc(0), bytes]);
    return Promise.resolve();
  }
  hole(length: bigint): Promise<void> {
    return this.data(Buffer.alloc(Number(length)));
  }
  symlink(path: Uint8Array, target: Uint8Array, meta: TreeMeta): Promise<void> {
    return this.#put(path, { kind: "symlink", target: Buffer.from(target).toString("latin1"), meta });
  }
  hardlink(path: Uint8Array, target: Uint8Array): Promise<void> {
    const name = Buffer.from(target).toString("latin1");
    if (!this.made.has(name)) throw new Error(`hard link to ${name}, which is not there`);
    return this.#put(path, { kind: "hardlink", target: name });
  }
  node(path: Uint8Array, mode: number, major: number, minor: number, meta: TreeMeta): Promise<void> {
    return this.#put(path, { kind: "node", mode, major, minor, meta });
  }
  end(): Promise<void> {
    if (this.#left !== 0n) throw new Error("file not filled at the end");
    this.ended = true;
    return Promise.resolve();
  }
  abort(): Promise<void> {
    this.aborted = true;
    return Promise.resolve();
  }
}

interface OpenFile {
  fd: number;
  left: bigint;
  at: bigint;
  path: string;
  mode: number;
  meta: TreeMeta;
}

/** As bosun's writer, but on node:fs: no xattrs, and not confined. For tests of what is above it. */
export class PlainTree implements TreeWriter {
  readonly #root: string;
  readonly #times: [path: string, mtime: bigint][] = [];
  #file: OpenFile | undefined;

  constructor(root: string) {
    this.#root = root;
  }

  #path(path: Uint8Array): string {
    return join(this.#root, Buffer.from(path).toString("latin1"));
  }

  #clear(path: string): void {
    mkdirSync(dirname(path), { recursive: true });
    rmSync(path, { recursive: true, force: true });
  }

  #finish(path: string, mode: number | undefined, { uid, gid, mtime }: TreeMeta): void {
    lchownSync(path, uid, gid);
    if (mode !== undefined) chmodSync(path, mode & 0o7777);
    lutimesSync(path, Number(mtime) / 1e9, Number(mtime) / 1e9);
  }

  async directory(path: Uint8Array, mode: number, meta: TreeMeta): Promise<void> {
    const at = this.#path(path);
    if (lstatSync(at, { throwIfNoEntry: false })?.isDirectory() !== true) {
      this.#clear(at);
      mkdirSync(at);
    }
    this.#finish(at, mode, meta);
    this.#times.push([at, meta.mtime]);
    await Promise.resolve();
  }
  async file(path: Uint8Array, mode: number, size: bigint, meta: TreeMeta): Promise<void> {
    const at = this.#path(path);
    this.#clear(at);
    this.#file = { fd: openSync(at, "wx"), left: size, at: 0n, path: at, mode, meta };
    if (size === 0n) this.#endFile();
    await Promise.resolve();
  }
  async data(bytes: Uint8Array): Promise<void> {
    const file = this.#file;
    if (file === undefined) throw new Error("data without a file");
    writeSync(file.fd, bytes, 0, bytes.length, Number(file.at));
    this.#advance(BigInt(bytes.length));
    await Promise.resolve();
  }
  async hole(length: bigint): Promise<void> {
    const file = this.#file;
    if (file === undefined) throw new Error("hole without a file");
    ftruncateSync(file.fd, Number(file.at + length));
    this.#advance(length);
    await Promise.resolve();
  }
  #advance(length: bigint): void {
    const file = this.#file as OpenFile;
    file.at += length;
    file.left -= length;
    if (file.left === 0n) this.#endFile();
  }
  #endFile(): void {
    const { fd, path, mode, meta } = this.#file as OpenFile;
    closeSync(fd);
    this.#file = undefined;
    this.#finish(path, mode, meta);
  }
  async symlink(path: Uint8Array, target: Uint8Array, meta: TreeMeta): Promise<void> {
    const at = this.#path(path);
    this.#clear(at);
    symlinkSync(Buffer.from(target), at);
    this.#finish(at, undefined, meta);
    await Promise.resolve();
  }
  async hardlink(path: Uint8Array, target: Uint8Array): Promise<void> {
    const at = this.#path(path);
    this.#clear(at);
    linkSync(this.#path(target), at);
    await Promise.resolve();
  }
  async node(path: Uint8Array, mode: number, major: number, minor: number, meta: TreeMeta): Promise<void> {
    const at = this.#path(path);
    this.#clear(at);
    const type = { 0o020000: "c", 0o060000: "b", 0o010000: "p" }[mode & 0o170000] as string;
    execFileSync("mknod", type === "p" ? [at, type] : [at, type, String(major), String(minor)]);
    this.#finish(at, mode, meta);
    await Promise.resolve();
  }
  async end(): Promise<void> {
    for (const [path, mtime] of this.#times)
      if (lstatSync(path, { throwIfNoEntry: false })?.isDirectory() === true)
        lutimesSync(path, Number(mtime) / 1e9, Number(mtime) / 1e9);
    await Promise.resolve();
  }
  async abort(): Promise<void> {
    if (this.#file !== undefined) closeSync(this.#file.fd);
    this.#file = undefined;
    await Promise.resolve();
  }
}

/** What a worker imports in place of @berth/kernel. */
export function openTree(_socket: string, directory: string): Promise<TreeWriter> {
  return Promise.resolve(new PlainTree(directory));
}

/** Does what the image store asks of a Hand, with node:fs. */
export function plainHand(): Hand {
  const no = (): never => {
    throw new Error("not part of this double");
  };
  return {
    run: async (plan) => {
      const outputs = new Map<number, Uint8Array | undefined>();
      for (const [index, { order, args }] of plan.orders.entries()) {
        // What is mounted for a probe does not matter to those who have only directories.
        if (order === "mount" || order === "unmount" || order === "drop_quota") continue;
        if (order === "disk_usage") {
          outputs.set(index, usage(args.path as string));
          continue;
        }
        if (order !== "remove_tree") throw new Error(`order ${order} is not part of this double`);
        rmSync(args.path as string, { recursive: true, force: true });
      }
      return await Promise.resolve(outputs);
    },
    tree: async (path) => await Promise.resolve(new PlainTree(path)),
    spawn: no,
    monitor: no,
    dial: no,
    close: async () => await Promise.resolve(),
  };
}

/** du(1)'s counts as bosun's output. */
function usage(directory: string): Uint8Array {
  const du = (flag: string): bigint =>
    BigInt(execFileSync("du", ["-s", flag, directory], { encoding: "utf8" }).split("\t")[0] ?? "");
  const output = new BigUint64Array([du("--block-size=1"), du("--inodes")]);
  return new Uint8Array(output.buffer);
}
