/** Exec and attach over the channels of a WebSocket. */
import type { Duplex } from "node:stream";
import type { Remote, Wanted } from "./remote.ts";
import { statusText } from "./status.ts";
import type { WebSocketChannels } from "./websocket-channels.ts";

/** Newest first; "base64." before a name makes its messages text. A client that names none speaks the first, unversioned one. */
export const WEBSOCKET_PROTOCOLS: readonly string[] = [
  "v5.channel.k8s.io",
  "v4.channel.k8s.io",
  "v4.base64.channel.k8s.io",
  "channel.k8s.io",
  "base64.channel.k8s.io",
];

const CHANNEL = { stdin: 0, stdout: 1, stderr: 2, error: 3, resize: 4 } as const;
export const REMOTE_CHANNELS = 5;

export class WebSocketRemote implements Remote {
  readonly #channels: WebSocketChannels;
  readonly #json: boolean;
  readonly #wanted: Wanted;
  readonly closed: Promise<void>;

  constructor(channels: WebSocketChannels, protocol: string, wanted: Wanted) {
    this.#channels = channels;
    this.#json = /^v[45]\./.test(protocol);
    this.#wanted = wanted;
    this.closed = channels.closed;
    // What a client sends on a channel that nobody reads is dropped.
    const read = [this.stdin, this.resize];
    for (const number of Object.values(CHANNEL)) {
      const channel = channels.channel(number);
      if (!read.includes(channel)) channel.resume();
    }
    // Tells a client of the old protocols that the connection stands.
    channels
      .channel(wanted.stdout ? CHANNEL.stdout : wanted.stderr ? CHANNEL.stderr : CHANNEL.error)
      .write(Buffer.alloc(0));
  }

  get stdin(): Duplex | undefined {
    return this.#wanted.stdin ? this.#channels.channel(CHANNEL.stdin) : undefined;
  }
  get stdout(): Duplex | undefined {
    return this.#wanted.stdout ? this.#channels.channel(CHANNEL.stdout) : undefined;
  }
  get stderr(): Duplex | undefined {
    return this.#wanted.stderr && !this.#wanted.tty ? this.#channels.channel(CHANNEL.stderr) : undefined;
  }
  get resize(): Duplex | undefined {
    return this.#wanted.tty ? this.#channels.channel(CHANNEL.resize) : undefined;
  }

  async finish(error: unknown): Promise<void> {
    const text = statusText(error, this.#json);
    if (text !== "") this.#channels.channel(CHANNEL.error).write(text);
    await this.#channels.close();
  }
}
