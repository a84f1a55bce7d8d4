/** The client of a tree stream: entries are batched, and callers wait while bosun is behind. */
import type { Socket } from "node:net";
import {
  decodeHeader,
  decodeMessage,
  encodeTreeEntry,
  HEADER_SIZE,
  type AnyMessage,
  type TreeEntryName,
  type TreeFields,
} from "../orders/encode.ts";
import { expect } from "./answers.ts";
import { HandLost } from "./errors.ts";
import type { TreeMeta, TreeWriter } from "./hand.ts";

/** A write of this size costs what one of a few bytes does; more only adds latency. */
const BATCH_BYTES = 64 << 10;

export class TreeClient implements TreeWriter {
  readonly #socket: Socket;
  readonly #path: string;
  readonly #report = Promise.withResolvers<AnyMessage>();
  #failure: Error | undefined;
  #batch: Buffer[] = [];
  #batched = 0;
  #received = Buffer.alloc(0);
  #finished = false;

  /** A socket that has had its "go" and carries nothing but entries from now on. */
  constructor(socket: Socket, path: string) {
    this.#socket = socket;
    this.#path = path;
    this.#report.promise.catch((error: Error) => (this.#failure ??= error));
    socket.on("data", (chunk: Buffer) => this.#onData(chunk));
    socket.on("error", (error) => this.#report.reject(new HandLost(`tree ${path}: ${error.message}`)));
    socket.on("close", () => this.#report.reject(new HandLost(`tree ${path}: the writer ended without a report`)));
    socket.resume();
  }

  directory(path: Uint8Array, mode: number, meta: TreeMeta): Promise<void> {
    return this.#send("directory", { path, mode, ...metaFields(meta) });
  }

  file(path: Uint8Array, mode: number, size: bigint, meta: TreeMeta): Promise<void> {
    return this.#send("file", { path, mode, size, ...metaFields(meta) });
  }

  data(bytes: Uint8Array): Promise<void> {
    return this.#send("data", { bytes });
  }

  hole(length: bigint): Promise<void> {
    return this.#send("hole", { length });
  }

  symlink(path: Uint8Array, target: Uint8Array, meta: TreeMeta): Promise<void> {
    return this.#send("symlink", { path, target, ...metaFields(meta) });
  }

  hardlink(path: Uint8Array, target: Uint8Array): Promise<void> {
    return this.#send("hardlink", { path, target });
  }

  node(path: Uint8Array, mode: number, major: number, minor: number, meta: TreeMeta): Promise<void> {
    return this.#send("node", { path, mode, major, minor, ...metaFields(meta) });
  }

  async end(sync: boolean): Promise<void> {
    await this.#send("end", { sync: sync ? 1 : 0 });
    await this.#flush();
    try {
      expect(await this.#report.promise, "report", `tree ${this.#path}`);
    } finally {
      this.#finish();
    }
  }

  async abort(): Promise<void> {
    this.#failure ??= new Error(`tree ${this.#path} was aborted`);
    this.#finish();
    await Promise.resolve();
  }

  /** Resolves at once while there is room in the batch. */
  async #send<N extends TreeEntryName>(name: N, fields: TreeFields<N>): Promise<void> {
    if (this.#failure !== undefined) throw this.#failure;
    const entry = encodeTreeEntry(name, fields);
    this.#batch.push(entry);
    this.#batched += entry.length;
    if (this.#batched >= BATCH_BYTES) await this.#flush();
  }

  async #flush(): Promise<void> {
    if (this.#batched === 0) return;
    const chunk = this.#batch.length === 1 ? this.#batch[0] : Buffer.concat(this.#batch);
    this.#batch = [];
    this.#batched = 0;
    if (chunk === undefined || this.#socket.write(chunk)) return;
    await this.#drained();
    if (this.#failure !== undefined) throw this.#failure;
  }

  /** Until the socket takes more, or bosun has said that it will not. */
  async #drained(): Promise<void> {
    const drain = Promise.withResolvers<void>();
    this.#socket.once("drain", drain.resolve);
    try {
      await Promise.race([
        drain.promise,
        this.#report.promise.then(
          () => {},
          () => {},
        ),
      ]);
    } finally {
      this.#socket.off("drain", drain.resolve);
    }
  }

  #onData(chunk: Buffer): void {
    this.#received = Buffer.concat([this.#received, chunk]);
    if (this.#received.length < HEADER_SIZE) return;
    const { size, type } = decodeHeader(this.#received);
    if (this.#received.length < HEADER_SIZE + size) return;
    try {
      const message = decodeMessage(type, this.#received.subarray(HEADER_SIZE, HEADER_SIZE + size));
      this.#report.resolve(message);
      // A report before the end is a failure: the next entry must not wait for a writer that has gone.
      if (message.name === "report" && message.fields.errno !== 0) expect(message, "report", `tree ${this.#path}`);
    } catch (error) {
      this.#failure ??= error as Error;
      this.#report.reject(error);
    }
  }

  #finish(): void {
    if (this.#finished) return;
    this.#finished = true;
    this.#socket.destroy();
  }
}

function metaFields(meta: TreeMeta) {
  const { uid, gid, mtime, xattrs } = meta;
  return { uid, gid, mtime, xattrNames: [...(xattrs?.keys() ?? [])], xattrValues: [...(xattrs?.values() ?? [])] };
}
