/**
 * Kubernetes' channels on one WebSocket (k8s.io/apimachinery, wsstream): each message begins with its channel's number; in the
 * base64 subprotocols messages are text, the number a digit. v5 adds the message [255, channel], which closes a channel: the only
 * half-close that a WebSocket can have.
 */
import { Duplex } from "node:stream";
import { WebSocket } from "ws";

const CLOSE_CHANNEL = 255;
const DIGIT_ZERO = 0x30;
const RECEIVE_BUFFER = 256 << 10;
const SEND_BUFFER = 64 << 10;
/** ms; while nothing is read from a client, only writing to it can tell that it has gone. */
const PROBE_MS = 2_000;
const LINGER_MS = 10_000;

export interface ChannelOptions {
  readonly count: number;
  readonly base64: boolean;
  /** Whether clients close channels (v5). */
  readonly closes: boolean;
  /** Called with each message, either way. */
  readonly onActivity: () => void;
}

export class WebSocketChannels {
  readonly #socket: WebSocket;
  readonly #options: ChannelOptions;
  readonly #channels: readonly Channel[];
  readonly #full = new Set<Channel>();
  #probe: NodeJS.Timeout | undefined;
  /** Settles when the client has gone, or the connection has been closed here. */
  readonly closed: Promise<void>;

  constructor(socket: WebSocket, options: ChannelOptions) {
    this.#socket = socket;
    this.#options = options;
    this.#channels = Array.from({ length: options.count }, (_, number) => new Channel(this, number));
    const { promise, resolve } = Promise.withResolvers<void>();
    this.closed = promise;
    socket.on("message", (data) => this.#receive(data as Buffer));
    socket.on("error", () => socket.terminate());
    socket.on("ping", options.onActivity);
    socket.on("close", () => {
      clearInterval(this.#probe);
      for (const channel of this.#channels) channel.abandon(new Error("the client has gone"));
      resolve();
    });
  }

  channel(number: number): Duplex {
    const channel = this.#channels[number];
    if (!channel) throw new RangeError(`channel ${number} of ${this.#channels.length}`);
    return channel;
  }

  /** When the client has been sent everything. */
  async close(): Promise<void> {
    if (this.#socket.readyState === WebSocket.OPEN) this.#socket.close(1000);
    await this.closed;
  }

  send(number: number, bytes: Buffer, done: (error?: Error | null) => void): void {
    if (this.#socket.readyState !== WebSocket.OPEN) return done(new Error("the client has gone"));
    this.#options.onActivity();
    const message = this.#options.base64
      ? String.fromCharCode(DIGIT_ZERO + number) + bytes.toString("base64")
      : Buffer.concat([Buffer.of(number), bytes]);
    this.#socket.send(message, (error) => done(error ?? null));
  }

  hasRoom(channel: Channel): void {
    if (!this.#full.delete(channel) || this.#full.size > 0) return;
    clearInterval(this.#probe);
    this.#socket.resume();
  }

  #receive(data: Buffer): void {
    this.#options.onActivity();
    const [first] = data;
    if (first === undefined) return;
    if (this.#options.closes && first === CLOSE_CHANNEL)
      return void this.#channels[data[1] ?? CLOSE_CHANNEL]?.receiveEnd();
    const channel = this.#channels[this.#options.base64 ? first - DIGIT_ZERO : first];
    if (!channel) return;
    const bytes = this.#options.base64 ? Buffer.from(data.toString("latin1", 1), "base64") : data.subarray(1);
    if (!channel.receive(bytes)) this.#hold(channel);
  }

  #hold(channel: Channel): void {
    if (this.#full.size === 0) {
      this.#socket.pause();
      this.#probe = setInterval(() => this.#socket.ping(), PROBE_MS);
    }
    this.#full.add(channel);
  }
}

class Channel extends Duplex {
  readonly #owner: WebSocketChannels;
  readonly #number: number;
  #ended = false;

  constructor(owner: WebSocketChannels, number: number) {
    super({ allowHalfOpen: true, readableHighWaterMark: RECEIVE_BUFFER, writableHighWaterMark: SEND_BUFFER });
    this.#owner = owner;
    this.#number = number;
    // What goes wrong with a channel is its connection's end.
    this.on("error", () => {});
  }

  /** False: it is full, and the connection must wait with more. */
  receive(bytes: Buffer): boolean {
    return this.#ended || this.destroyed || bytes.length === 0 || this.push(bytes);
  }

  receiveEnd(): void {
    if (this.#ended || this.destroyed) return;
    this.#ended = true;
    this.push(null);
  }

  /** What came whole, its end included, can still be read for a while. */
  abandon(error: Error): void {
    if (!this.#ended || this.readableEnded) return void this.destroy(error);
    const timer = setTimeout(() => this.destroy(error), LINGER_MS).unref();
    this.once("end", () => this.destroy(error)).once("close", () => clearTimeout(timer));
  }

  override _read(): void {
    this.#owner.hasRoom(this);
  }

  override _write(chunk: Buffer, _encoding: BufferEncoding, done: (error?: Error | null) => void): void {
    this.#owner.send(this.#number, chunk, done);
  }

  override _destroy(error: Error | null, done: (error: Error | null) => void): void {
    this.#owner.hasRoom(this);
    done(error);
  }
}
