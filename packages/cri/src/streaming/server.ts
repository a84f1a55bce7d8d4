/**
 * The streaming server: Exec and Attach answer with a URL here, which a client opens as a WebSocket (subprotocols
 * v5.channel.k8s.io and v4.channel.k8s.io).
 */
import { createServer, type IncomingMessage, type Server } from "node:http";
import type { AddressInfo } from "node:net";
import type { Duplex } from "node:stream";
import { WebSocketServer } from "ws";
import type { Log } from "../log.ts";
import { Channels, PROTOCOLS } from "./channels.ts";
import { Tokens } from "./tokens.ts";

export interface StreamRequest {
  readonly kind: "exec" | "attach";
  readonly containerId: string;
  /** exec only. */
  readonly cmd: readonly string[];
  readonly tty: boolean;
  readonly stdin: boolean;
  readonly stdout: boolean;
  readonly stderr: boolean;
}

/** Settles when the stream may be opened: what the client does from then on (start the container) must find it listening. */
export type StreamHandler = (request: StreamRequest) => Promise<(channels: Channels) => Promise<void>>;

export class StreamingServer {
  readonly #tokens = new Tokens<StreamRequest>();
  readonly #http: Server;
  readonly #sockets = new WebSocketServer({
    noServer: true,
    perMessageDeflate: false,
    maxPayload: 16 << 20,
    handleProtocols: (offered) => PROTOCOLS.find((protocol) => offered.has(protocol)) ?? false,
  });
  readonly #handle: StreamHandler;
  readonly #log: Log;
  #base = "";

  private constructor(handle: StreamHandler, log: Log) {
    this.#handle = handle;
    this.#log = log;
    this.#http = createServer((_request, response) =>
      response.writeHead(426, { "content-type": "text/plain" }).end("a WebSocket is expected here\n"),
    );
    this.#http.on("upgrade", (request, socket, head) => this.#upgrade(request, socket, head));
  }

  /** Port 0: any free one. */
  static async listen(address: string, port: number, handle: StreamHandler, log: Log): Promise<StreamingServer> {
    const server = new StreamingServer(handle, log);
    const { promise, resolve, reject } = Promise.withResolvers<void>();
    server.#http.once("error", reject).listen(port, address, resolve);
    await promise;
    const bound = server.#http.address() as AddressInfo;
    server.#base = `http://${bound.family === "IPv6" ? `[${bound.address}]` : bound.address}:${bound.port}`;
    return server;
  }

  /** A URL that opens the stream, once, within a minute. */
  url(request: StreamRequest): string {
    return `${this.#base}/${request.kind}/${this.#tokens.issue(request)}`;
  }

  async close(): Promise<void> {
    for (const client of this.#sockets.clients) client.terminate();
    const { promise, resolve } = Promise.withResolvers<void>();
    this.#http.close(() => resolve());
    this.#http.closeAllConnections();
    await promise;
  }

  #upgrade(message: IncomingMessage, socket: Duplex, head: Buffer): void {
    const [, kind, token = ""] = new URL(message.url ?? "/", this.#base).pathname.split("/");
    const request = this.#tokens.redeem(token);
    if (!request || request.kind !== kind) return refuse(socket, 404, "unknown, used or expired token");
    const offered = (message.headers["sec-websocket-protocol"] ?? "").split(",").map((protocol) => protocol.trim());
    if (!PROTOCOLS.some((protocol) => offered.includes(protocol)))
      return refuse(socket, 403, `no subprotocol in common; offer one of ${PROTOCOLS.join(", ")}`);
    void this.#handle(request).then(
      (serve) => this.#open(message, socket, head, request, serve),
      (error: unknown) => this.#open(message, socket, head, request, () => Promise.reject(error)),
    );
  }

  #open(
    message: IncomingMessage,
    socket: Duplex,
    head: Buffer,
    request: StreamRequest,
    serve: (channels: Channels) => Promise<void>,
  ): void {
    this.#sockets.handleUpgrade(message, socket, head, (webSocket) => {
      const channels = new Channels(webSocket);
      serve(channels).then(
        () => channels.succeed(),
        (error: unknown) => {
          this.#log.warn({ stream: request.kind, container: request.containerId, err: error }, "a stream failed");
          channels.fail(error);
        },
      );
    });
  }
}

function refuse(socket: Duplex, status: number, reason: string): void {
  socket.end(
    `HTTP/1.1 ${status} ${status === 404 ? "Not Found" : "Forbidden"}\r\nConnection: close\r\nContent-Type: text/plain\r\nContent-Length: ${Buffer.byteLength(reason) + 1}\r\n\r\n${reason}\n`,
  );
}
