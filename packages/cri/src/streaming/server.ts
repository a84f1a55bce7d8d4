/**
 * The streaming server: Exec, Attach and PortForward answer with a URL here, which a client opens once, as SPDY/3.1 or as a
 * WebSocket.
 */
import type { IncomingMessage, RequestListener, Server, ServerResponse } from "node:http";
import { createServer as createSecureServer } from "node:https";
import { type AddressInfo, Socket } from "node:net";
import type { Duplex } from "node:stream";
import type { Log } from "../log.ts";
import type { StreamingOptions } from "./options.ts";
import type { StreamRequest } from "./requests.ts";
import { Tokens } from "./tokens.ts";
import { refuse } from "./upgrade.ts";

// Imported, node:http would load all of undici for three of its names: 16 MB and 50 ms.
const { createServer } = process.getBuiltinModule("node:http");

/** Takes over the connection of a client that has shown a good token. */
export type UpgradeHandler = (request: StreamRequest, message: IncomingMessage, socket: Duplex, head: Buffer) => void;

const KEEP_ALIVE_MS = 30_000;

export class StreamingServer {
  readonly #tokens = new Tokens<StreamRequest>();
  readonly #http: Server;
  readonly #handle: UpgradeHandler;
  readonly #open = new Set<Duplex>();
  #base = "";

  private constructor(options: StreamingOptions, handle: UpgradeHandler) {
    this.#handle = handle;
    this.#http = options.tls ? createSecureServer(options.tls, onlyUpgrades) : createServer(onlyUpgrades);
    this.#http.on("upgrade", (request, socket, head) => this.#upgrade(request, socket, head));
  }

  static async listen(options: StreamingOptions, handle: UpgradeHandler, log: Log): Promise<StreamingServer> {
    const server = new StreamingServer(options, handle);
    const { promise, resolve, reject } = Promise.withResolvers<void>();
    server.#http.once("error", reject).listen(options.port, options.address, resolve);
    await promise;
    server.#http.off("error", reject).on("error", (error) => log.error({ err: error }, "the streaming server"));
    const bound = server.#http.address() as AddressInfo;
    const host = bound.family === "IPv6" ? `[${bound.address}]` : bound.address;
    server.#base = `${options.tls ? "https" : "http"}://${host}:${bound.port}`;
    return server;
  }

  /** A URL that opens the stream, once, within a minute. */
  url(request: StreamRequest): string {
    return `${this.#base}/${request.kind}/${this.#tokens.issue(request)}`;
  }

  async close(): Promise<void> {
    const { promise, resolve } = Promise.withResolvers<void>();
    this.#http.close(() => resolve());
    this.#http.closeAllConnections();
    for (const socket of this.#open) socket.destroy();
    this.#tokens.clear();
    await promise;
  }

  #upgrade(message: IncomingMessage, socket: Duplex, head: Buffer): void {
    this.#open.add(socket);
    // A client may vanish at any moment; whoever uses the connection learns it by its close.
    socket.on("error", () => socket.destroy()).on("close", () => this.#open.delete(socket));
    // TLS sockets are sockets too; Duplex is what node:http promises.
    if (socket instanceof Socket) socket.setNoDelay(true).setKeepAlive(true, KEEP_ALIVE_MS);
    const [, kind, token = ""] = new URL(message.url ?? "/", this.#base).pathname.split("/");
    const request = this.#tokens.redeem(token);
    if (!request || request.kind !== kind) return refuse(socket, 404, "unknown, used or expired token");
    this.#handle(request, message, socket, head);
  }
}

const onlyUpgrades: RequestListener = (_message: IncomingMessage, response: ServerResponse) =>
  response
    .writeHead(426, { "content-type": "text/plain" })
    .end("a stream is opened by an upgrade to SPDY/3.1 or websocket\n");
