/**
 * Port-forward over SPDY, protocol portforward.k8s.io (k8s.io/client-go, tools/portforward): for each connection the client makes an
 * error and a data stream with headers "port" and "requestid". Clients before Kubernetes 1.2 send no id: the error stream's own
 * number is one, and the data stream has the next.
 */
import type { Socket } from "node:net";
import type { SpdyStream } from "./spdy/stream.ts";
import { forward } from "./forward.ts";

export const PORT_FORWARD_PROTOCOL = "portforward.k8s.io";

interface Pair {
  readonly port: number;
  readonly timer: NodeJS.Timeout;
  data?: SpdyStream;
  error?: SpdyStream;
}

export interface PortForwardOptions {
  readonly dial: (port: number) => Promise<Socket>;
  /** ms for the second stream of a pair to come. */
  readonly creationTimeoutMs: number;
  /** For messages. */
  readonly sandboxId: string;
}

export class SpdyPortForward {
  readonly #options: PortForwardOptions;
  readonly #pairs = new Map<string, Pair>();

  constructor(options: PortForwardOptions) {
    this.#options = options;
  }

  /** False: headers that say nothing that can be done. */
  add(stream: SpdyStream): boolean {
    const type = stream.headers.get("streamtype");
    const port = portOf(stream.headers.get("port") ?? "");
    if (port === undefined || (type !== "data" && type !== "error")) return false;
    const id = stream.headers.get("requestid") ?? String(type === "error" ? stream.id : stream.id - 2);
    const pair = this.#pairs.get(id) ?? this.#begin(id, port);
    if (pair[type] || pair.port !== port) return false;
    pair[type] = stream;
    if (pair.data && pair.error) {
      clearTimeout(pair.timer);
      this.#pairs.delete(id);
      void this.#forward(port, pair.data, pair.error);
    }
    return true;
  }

  /** The client has gone. */
  stop(): void {
    for (const { timer } of this.#pairs.values()) clearTimeout(timer);
    this.#pairs.clear();
  }

  #begin(id: string, port: number): Pair {
    const timer = setTimeout(() => this.#late(id), this.#options.creationTimeoutMs);
    const pair = { port, timer };
    this.#pairs.set(id, pair);
    return pair;
  }

  #late(id: string): void {
    const pair = this.#pairs.get(id);
    this.#pairs.delete(id);
    pair?.error?.end("timed out waiting for streams");
    pair?.error?.resume();
    pair?.data?.destroy();
  }

  async #forward(port: number, data: SpdyStream, error: SpdyStream): Promise<void> {
    error.resume();
    try {
      await forward(data, await this.#options.dial(port));
      error.end();
    } catch (failure) {
      // The wording that kubectl's users know.
      const why = failure instanceof Error ? failure.message : String(failure);
      error.end(`error forwarding port ${port} to pod ${this.#options.sandboxId}, uid : ${why}`);
      data.resume();
      data.end();
    }
  }
}

function portOf(text: string): number | undefined {
  const port = /^\d{1,5}$/.test(text) ? Number(text) : 0;
  return port >= 1 && port <= 65535 ? port : undefined;
}
