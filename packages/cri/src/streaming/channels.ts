/**
 * Kubernetes' channel protocol on one WebSocket (k8s.io/apimachinery, remotecommand): each binary message begins with its
 * channel's number. v5 adds message [255, channel], which closes a channel: the only half-close a WebSocket can have.
 */
import type { Socket } from "node:net";
import { WebSocket } from "ws";

export const PROTOCOLS: readonly string[] = ["v5.channel.k8s.io", "v4.channel.k8s.io"];
const CHANNEL = { stdin: 0, stdout: 1, stderr: 2, error: 3, resize: 4, close: 255 } as const;

/** Ends a stream whose command exited with another status than 0. */
export class NonZeroExit extends Error {
  readonly exitCode: number;
  constructor(exitCode: number) {
    super(`command terminated with exit code ${exitCode}`);
    this.exitCode = exitCode;
  }
}

export class Channels {
  readonly #socket: WebSocket;
  #stdin: Socket | undefined;
  #onResize: ((rows: number, columns: number) => void) | undefined;
  /** What the client sent before its channel was connected. */
  #early: Buffer[] = [];
  #earlyEnd = false;
  /** Settles when the client has gone, or the stream has been ended here. */
  readonly closed: Promise<void>;

  constructor(socket: WebSocket) {
    this.#socket = socket;
    const { promise, resolve } = Promise.withResolvers<void>();
    this.closed = promise;
    socket.on("close", () => resolve());
    socket.on("error", () => socket.terminate());
    socket.on("message", (data) => this.#receive(data as Buffer));
  }

  connectStdin(stdin: Socket): void {
    this.#stdin = stdin;
    // The process may end before it has read everything: its end of the pipe is then gone, which is no error of the stream.
    stdin.on("error", () => stdin.destroy());
    stdin.on("drain", () => this.#socket.resume());
    for (const chunk of this.#early.splice(0)) this.#feed(chunk);
    if (this.#earlyEnd) stdin.end();
  }

  onResize(handler: (rows: number, columns: number) => void): void {
    this.#onResize = handler;
  }

  /** Relays everything that `source` gives to the channel; settles at its end. A slow client slows the source. */
  async relay(source: Socket, channel: "stdout" | "stderr"): Promise<void> {
    for await (const chunk of source as AsyncIterable<Buffer>) await this.#send(CHANNEL[channel], chunk);
  }

  succeed(): void {
    this.#finish({ metadata: {}, status: "Success" });
  }

  fail(error: unknown): void {
    const message = error instanceof Error ? error.message : String(error);
    if (error instanceof NonZeroExit) {
      const details = { causes: [{ reason: "ExitCode", message: String(error.exitCode) }] };
      this.#finish({ metadata: {}, status: "Failure", reason: "NonZeroExitCode", message, details });
    } else {
      this.#finish({ metadata: {}, status: "Failure", reason: "InternalError", message, code: 500 });
    }
  }

  #finish(status: object): void {
    if (this.#socket.readyState !== WebSocket.OPEN) return;
    this.#socket.send(Buffer.concat([Buffer.of(CHANNEL.error), Buffer.from(JSON.stringify(status))]));
    this.#socket.close(1000);
  }

  #send(channel: number, chunk: Buffer): Promise<void> {
    const { promise, resolve } = Promise.withResolvers<void>();
    // A client that has gone needs nothing more; `closed` tells whoever must know.
    this.#socket.send(Buffer.concat([Buffer.of(channel), chunk]), () => resolve());
    return promise;
  }

  #receive(data: Buffer): void {
    const channel = data[0];
    const payload = data.subarray(1);
    if (channel === CHANNEL.stdin) this.#feed(payload);
    else if (channel === CHANNEL.resize) this.#resize(payload);
    else if (channel === CHANNEL.close && payload[0] === CHANNEL.stdin) this.#endStdin();
  }

  #feed(chunk: Buffer): void {
    if (chunk.length === 0) return;
    if (!this.#stdin) this.#early.push(chunk);
    else if (!this.#stdin.destroyed && !this.#stdin.write(chunk)) this.#socket.pause();
  }

  #endStdin(): void {
    if (this.#stdin) this.#stdin.end();
    else this.#earlyEnd = true;
  }

  #resize(payload: Buffer): void {
    let size: { Width?: unknown; Height?: unknown };
    try {
      size = JSON.parse(payload.toString("utf8")) as typeof size;
    } catch {
      this.#socket.close(1007, "resize is not JSON");
      return;
    }
    if (typeof size.Width === "number" && typeof size.Height === "number") this.#onResize?.(size.Height, size.Width);
  }
}
