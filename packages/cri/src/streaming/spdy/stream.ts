/** One SPDY stream: a Duplex whose reading end is what the client sends, and whose `end` is a FIN (half-close). */
import { Duplex } from "node:stream";
import { INITIAL_WINDOW } from "./frames.ts";
import type { Headers } from "./headers.ts";

/** Bytes that may wait here for their reader before the connection is no longer read: clients of Kubernetes know no windows. */
const RECEIVE_BUFFER = 256 << 10;
const SEND_BUFFER = 64 << 10;

/** What a stream asks of its connection. */
export interface StreamOwner {
  send(stream: SpdyStream, bytes: Buffer, done: (error?: Error | null) => void): void;
  sendFin(stream: SpdyStream, done: (error?: Error | null) => void): void;
  /** The reader has taken so much; `resumed`: it had been full before. */
  taken(stream: SpdyStream, bytes: number, resumed: boolean): void;
  /** Destroyed: `reset` tells whether the client must be told. */
  gone(stream: SpdyStream, reset: boolean): void;
}

export class SpdyStream extends Duplex {
  readonly id: number;
  readonly headers: Headers;
  /** Bytes that the client's window has left. */
  sendWindow: number;
  readonly #owner: StreamOwner;
  #untaken = 0;
  #full = false;
  #finReceived = false;
  #finSent = false;

  constructor(owner: StreamOwner, id: number, headers: Headers, sendWindow: number) {
    super({ allowHalfOpen: true, readableHighWaterMark: RECEIVE_BUFFER, writableHighWaterMark: SEND_BUFFER });
    this.#owner = owner;
    this.id = id;
    this.headers = headers;
    this.sendWindow = sendWindow;
    // What goes wrong with a stream is its connection's end, or a reset: both show as its close.
    this.on("error", () => {});
  }

  /** False: it is full, and the connection must wait with more. */
  receive(bytes: Buffer): boolean {
    if (this.destroyed || this.#finReceived || bytes.length === 0) return true;
    this.#untaken += bytes.length;
    this.#full = !this.push(bytes);
    if (!this.#full && this.#untaken >= INITIAL_WINDOW / 2) this.#credit(false);
    return !this.#full;
  }

  receiveFin(): void {
    if (this.#finReceived || this.destroyed) return;
    this.#finReceived = true;
    this.push(null);
  }

  /** The connection is gone. What came whole, its end included, can still be read, for so many ms. */
  abandon(error: Error, lingerMs: number): void {
    if (!this.#finReceived || this.readableEnded) return void this.destroy(error);
    const timer = setTimeout(() => this.destroy(error), lingerMs).unref();
    this.once("end", () => this.destroy(error)).once("close", () => clearTimeout(timer));
  }

  override _read(): void {
    if (!this.#full) return;
    this.#full = false;
    this.#credit(true);
  }

  #credit(resumed: boolean): void {
    const bytes = this.#untaken;
    this.#untaken = 0;
    this.#owner.taken(this, bytes, resumed);
  }

  override _write(chunk: Buffer, _encoding: BufferEncoding, done: (error?: Error | null) => void): void {
    this.#owner.send(this, chunk, done);
  }

  override _final(done: (error?: Error | null) => void): void {
    this.#finSent = true;
    this.#owner.sendFin(this, done);
  }

  override _destroy(error: Error | null, done: (error: Error | null) => void): void {
    this.#owner.gone(this, !(this.#finReceived && this.#finSent));
    done(error);
  }
}
