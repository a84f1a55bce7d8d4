/**
 * Exec and attach over SPDY (k8s.io/apimachinery, remotecommand): the client makes a stream for each of error, stdin, stdout,
 * stderr and, with a terminal and from v3 on, resize, told apart by the header "streamtype".
 */
import type { Remote, Wanted } from "./remote.ts";
import type { SpdyStream } from "./spdy/stream.ts";
import { statusText } from "./status.ts";

/** Newest first. A client that names none speaks the first, unversioned one. */
export const SPDY_PROTOCOLS: readonly string[] = [
  "v4.channel.k8s.io",
  "v3.channel.k8s.io",
  "v2.channel.k8s.io",
  "channel.k8s.io",
];

type StreamType = "error" | "stdin" | "stdout" | "stderr" | "resize";

export class SpdyRemote implements Remote {
  readonly #protocol: string;
  readonly #expected: ReadonlySet<StreamType>;
  readonly #streams = new Map<StreamType, SpdyStream>();
  readonly #complete = Promise.withResolvers<void>();
  readonly #close: () => Promise<void>;
  readonly closed: Promise<void>;

  /** `protocol`: one of SPDY_PROTOCOLS, or "". */
  constructor(
    protocol: string,
    wanted: Wanted,
    connection: { readonly closed: Promise<void>; close(): Promise<void> },
  ) {
    this.#protocol = protocol;
    const resizes = wanted.tty && (protocol.startsWith("v4") || protocol.startsWith("v3"));
    const expected: Record<StreamType, boolean> = { error: true, ...streams(wanted), resize: resizes };
    this.#expected = new Set((Object.keys(expected) as StreamType[]).filter((type) => expected[type]));
    this.closed = connection.closed;
    this.#close = () => connection.close();
  }

  /** False: a stream that nobody asked for. */
  add(stream: SpdyStream): boolean {
    const type = (stream.headers.get("streamtype") ?? "") as StreamType;
    if (!this.#expected.has(type) || this.#streams.has(type)) return false;
    this.#streams.set(type, stream);
    // What a client sends on a stream that is not for it to send on is dropped.
    if (type !== "stdin" && type !== "resize") stream.resume();
    if (this.#streams.size === this.#expected.size) this.#complete.resolve();
    return true;
  }

  /** Rejects where the client has not made all its streams in time. */
  async complete(timeoutMs: number): Promise<void> {
    const late = Promise.withResolvers<never>();
    const timer = setTimeout(() => late.reject(new Error("timed out waiting for client to create streams")), timeoutMs);
    try {
      await Promise.race([this.#complete.promise, this.closed, late.promise]);
    } finally {
      clearTimeout(timer);
    }
  }

  get stdin(): SpdyStream | undefined {
    return this.#streams.get("stdin");
  }
  get stdout(): SpdyStream | undefined {
    return this.#streams.get("stdout");
  }
  get stderr(): SpdyStream | undefined {
    return this.#streams.get("stderr");
  }
  get resize(): SpdyStream | undefined {
    return this.#streams.get("resize");
  }

  async finish(error: unknown): Promise<void> {
    this.#streams.get("error")?.end(statusText(error, this.#protocol.startsWith("v4")));
    for (const output of [this.stdout, this.stderr]) output?.end();
    await this.#close();
  }
}

const streams = ({ stdin, stdout, stderr, tty }: Wanted) => ({ stdin, stdout, stderr: stderr && !tty });
