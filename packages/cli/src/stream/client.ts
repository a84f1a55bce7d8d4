/**
 * The client's end of Exec and Attach: Kubernetes' channel protocol on a WebSocket (k8s.io/apimachinery, remotecommand). Each binary
 * message begins with its channel's number; v5 adds message [255, channel], which closes a channel.
 */
import type { Writable } from "node:stream";
import type { ConnectionOptions } from "node:tls";
import { WebSocket } from "ws";
import { Failure } from "../failure.ts";

const CHANNEL = { stdin: 0, stdout: 1, stderr: 2, error: 3, resize: 4, close: 255 } as const;
const V5 = "v5.channel.k8s.io";
const PROTOCOLS = [V5, "v4.channel.k8s.io"];
/** What may wait to be sent before a writer is held back; bytes. */
const HIGH_WATER = 1 << 20;
const PROTOCOL_ERROR = 1002;
const NORMAL_CLOSURE = 1000;

export type StreamEnd =
  /** The command or container ended; `code` is its exit code, as far as the server told (an attach tells none: 0). */
  | { readonly kind: "exit"; readonly code: number }
  /** The server could not do it, or gave up on it. */
  | { readonly kind: "failure"; readonly message: string }
  /** This side left, or the connection broke; the command may still run. */
  | { readonly kind: "detached" }
  | { readonly kind: "lost"; readonly message: string };

export interface StreamOutputs {
  readonly stdout: Writable;
  readonly stderr: Writable;
}

/** What is done with a stream, whatever carries it. */
export type Wired = Pick<RemoteStream, "ended" | "writeStdin" | "endStdin" | "resize" | "detach">;

/**
 * Opens the URL that Exec or Attach answered with; a URL is good for one use. Output flows from now on. `tls`: for https,
 * where nobody has signed berthd's certificate but itself unless the node has given it another; the URL came by root's socket.
 */
export async function openStream(
  url: string,
  outputs: StreamOutputs,
  tls: ConnectionOptions = { rejectUnauthorized: false },
): Promise<RemoteStream> {
  const socket = new WebSocket(url.replace(/^http/, "ws"), PROTOCOLS, { perMessageDeflate: false, ...tls });
  const stream = new RemoteStream(socket, outputs);
  await stream.opened;
  return stream;
}

export class RemoteStream {
  readonly #socket: WebSocket;
  readonly #outputs: StreamOutputs;
  readonly opened: Promise<void>;
  /** How it ended; never rejects. Everything that was received has been written to the outputs by then. */
  readonly ended: Promise<StreamEnd>;
  #end: StreamEnd | undefined;
  #connectionError: Error | undefined;
  #stdinOpen = true;

  constructor(socket: WebSocket, outputs: StreamOutputs) {
    this.#socket = socket;
    this.#outputs = outputs;
    const opened = Promise.withResolvers<void>();
    const ended = Promise.withResolvers<StreamEnd>();
    this.opened = opened.promise;
    this.ended = ended.promise;
    socket.on("message", (data) => this.#receive(data as Buffer));
    socket.on("open", () => opened.resolve());
    socket.on("error", (error) => {
      this.#connectionError = error;
      opened.reject(
        new Failure(`cannot open the stream at ${new URL(socket.url).host}: ${error.message}`, undefined, {
          cause: error,
        }),
      );
    });
    socket.on("close", (code, reason) => ended.resolve(this.#end ?? this.#lost(code, reason.toString())));
  }

  /** Whether the end of stdin can be told: v4 has no way to. */
  get canEndStdin(): boolean {
    return this.#socket.protocol === V5;
  }

  /** Settles when more may be written; what is written after the end goes nowhere. */
  async writeStdin(chunk: Uint8Array): Promise<void> {
    if (this.#stdinOpen) await this.#send(CHANNEL.stdin, chunk);
  }

  /** The command reads end of file; its output goes on. */
  endStdin(): void {
    if (!this.#stdinOpen) return;
    this.#stdinOpen = false;
    if (this.canEndStdin) void this.#send(CHANNEL.close, Buffer.of(CHANNEL.stdin));
  }

  resize(columns: number, rows: number): void {
    void this.#send(CHANNEL.resize, Buffer.from(JSON.stringify({ Width: columns, Height: rows })));
  }

  /** Leaves; an attached container runs on. */
  detach(): void {
    this.#end ??= { kind: "detached" };
    this.#socket.close(NORMAL_CLOSURE);
  }

  #send(channel: number, payload: Uint8Array): Promise<void> {
    if (this.#socket.readyState !== WebSocket.OPEN) return Promise.resolve();
    const { promise, resolve } = Promise.withResolvers<void>();
    // A failed send closes the socket, and `ended` tells.
    this.#socket.send(Buffer.concat([Buffer.of(channel), payload]), () => resolve());
    return this.#socket.bufferedAmount > HIGH_WATER ? promise : Promise.resolve();
  }

  #receive(data: Buffer): void {
    const payload = data.subarray(1);
    switch (data[0]) {
      case CHANNEL.stdout:
        return this.#output(this.#outputs.stdout, payload);
      case CHANNEL.stderr:
        return this.#output(this.#outputs.stderr, payload);
      case CHANNEL.error:
        this.#end ??= parseStatus(payload);
        return;
      case CHANNEL.close:
        return;
      default:
        this.#end ??= {
          kind: "failure",
          message: `the server sent channel ${data[0] ?? "none"}, which this protocol does not have`,
        };
        this.#socket.close(PROTOCOL_ERROR);
    }
  }

  #output(output: Writable, payload: Buffer): void {
    if (payload.length === 0 || output.destroyed || output.write(payload)) return;
    this.#socket.pause();
    const resume = (): void => {
      output.off("drain", resume).off("close", resume);
      this.#socket.resume();
    };
    output.on("drain", resume).on("close", resume);
  }

  #lost(code: number, reason: string): StreamEnd {
    const why = this.#connectionError?.message ?? (reason || `it was closed with code ${code}`);
    return { kind: "lost", message: `the connection was lost: ${why}` };
  }
}

interface Status {
  readonly status?: string;
  readonly reason?: string;
  readonly message?: string;
  readonly details?: { readonly causes?: readonly { readonly reason?: string; readonly message?: string }[] };
}

/** A Kubernetes v1.Status: success, an exit code, or a failure. */
export function parseStatus(payload: Uint8Array): StreamEnd {
  const text = Buffer.from(payload).toString("utf8");
  let status: Status;
  try {
    status = JSON.parse(text) as Status;
  } catch {
    return { kind: "failure", message: text };
  }
  if (status.status === "Success") return { kind: "exit", code: 0 };
  const cause = status.details?.causes?.find(({ reason }) => reason === "ExitCode")?.message;
  if (status.reason === "NonZeroExitCode" && cause !== undefined && /^\d+$/.test(cause))
    return { kind: "exit", code: Number(cause) };
  return { kind: "failure", message: status.message ?? text };
}
