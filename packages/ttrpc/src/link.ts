/** Frames over a connection, both ways, with back-pressure: who writes waits for the peer, and a reader that is behind stops the peer. */
import type { Duplex } from "node:stream";
import { encodeFrame, type Frame, FrameDecoder } from "./frame.ts";

/** Messages of streams that nobody has read, above which nothing more is taken from the connection. */
const HIGH_WATER = 64;

export class FrameLink {
  readonly #connection: Duplex;
  readonly #decoder = new FrameDecoder();
  readonly #closed = Promise.withResolvers<Error | undefined>();
  #unread = 0;
  #drained: PromiseWithResolvers<void> | undefined;
  #isOpen = true;

  constructor(connection: Duplex, onFrame: (frame: Frame) => void) {
    this.#connection = connection;
    let failure: Error | undefined;
    connection.on("data", (chunk: Buffer) => {
      for (const frame of this.#decoder.push(chunk)) if (this.#isOpen) onFrame(frame);
    });
    connection.on("drain", () => this.#resume());
    connection.on("error", (error) => (failure = error));
    connection.on("end", () => connection.end());
    connection.on("close", () => {
      this.#isOpen = false;
      this.#resume();
      this.#closed.resolve(failure);
    });
    // Whoever opened it may have read lines first, and stopped.
    connection.resume();
  }

  get isOpen(): boolean {
    return this.#isOpen;
  }

  /** Settles when the connection has gone: with the error that ended it, if one did. */
  get closed(): Promise<Error | undefined> {
    return this.#closed.promise;
  }

  /** Settles when the peer is not behind any more. A frame for a connection that has gone is dropped: `closed` tells. */
  async send(frame: Frame): Promise<void> {
    const encoded = encodeFrame(frame);
    if (!this.#isOpen || this.#connection.destroyed) return;
    if (!this.#connection.write(encoded)) await (this.#drained ??= Promise.withResolvers()).promise;
  }

  /** A message of a stream has been put aside for its reader (1), or read (-1). */
  unread(change: 1 | -1): void {
    this.#unread += change;
    if (this.#unread >= HIGH_WATER) this.#connection.pause();
    else if (this.#connection.isPaused() && this.#isOpen) this.#connection.resume();
  }

  destroy(): void {
    this.#isOpen = false;
    this.#connection.destroy();
  }

  #resume(): void {
    this.#drained?.resolve();
    this.#drained = undefined;
  }
}
