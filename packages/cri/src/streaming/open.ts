/** From an upgraded connection with a good token to the stream that it asks for. */
import type { IncomingMessage } from "node:http";
import type { Duplex } from "node:stream";
import { createWebSocketStream } from "ws";
import type { CriContext } from "../context.ts";
import { dialPod } from "./dial.ts";
import { IdleTimer } from "./idle.ts";
import { PORT_FORWARD_PROTOCOL, type PortForwardOptions, SpdyPortForward } from "./portforward-spdy.ts";
import { forwardChannels, PORT_FORWARD_WEBSOCKET_PROTOCOLS } from "./portforward-websocket.ts";
import type { Remote } from "./remote.ts";
import { SPDY_PROTOCOLS, SpdyRemote } from "./remote-spdy.ts";
import { REMOTE_CHANNELS, WEBSOCKET_PROTOCOLS, WebSocketRemote } from "./remote-websocket.ts";
import type { PortForwardRequest, RemoteRequest, StreamRequest } from "./requests.ts";
import { type Prepared, prepareRemote } from "./serve.ts";
import type { StreamingOptions } from "./options.ts";
import type { UpgradeHandler } from "./server.ts";
import { NonZeroExit } from "./status.ts";
import { SpdyConnection } from "./spdy/connection.ts";
import type { SpdyStream } from "./spdy/stream.ts";
import { acceptSpdy, acceptWebSocket, refuse, upgradeOf } from "./upgrade.ts";
import { WebSocketChannels } from "./websocket-channels.ts";

const TUNNEL_PROTOCOL = `SPDY/3.1+${PORT_FORWARD_PROTOCOL}`;

interface Opening {
  readonly context: CriContext;
  readonly options: StreamingOptions;
  readonly message: IncomingMessage;
  readonly socket: Duplex;
  readonly head: Buffer;
}

export function streamOpener(context: CriContext, options: StreamingOptions): UpgradeHandler {
  return (request, message, socket, head) => {
    if (upgradeOf(message) === undefined)
      return refuse(
        socket,
        400,
        `unable to upgrade: to "${message.headers.upgrade ?? ""}"; SPDY/3.1 and websocket are served`,
      );
    const opening = { context, options, message, socket, head };
    if (request.kind === "portforward") openPortForward(opening, request);
    else void openRemote(opening, request);
  };
}

// --- exec and attach --------------------------------------------------------------------------------------------------

async function openRemote(opening: Opening, request: RemoteRequest): Promise<void> {
  const prepared = await prepareRemote(opening.context, request).catch((error: unknown): Prepared => ({
    serve: () => Promise.reject(error),
    abandon: () => undefined,
  }));
  if (upgradeOf(opening.message) === "spdy") return spdyRemote(opening, request, prepared);
  const { message, socket, head } = opening;
  let opened = false;
  socket.once("close", () => (opened ? undefined : prepared.abandon()));
  acceptWebSocket(message, socket, head, WEBSOCKET_PROTOCOLS, (webSocket, protocol) => {
    opened = true;
    const idle = new IdleTimer(opening.options.idleTimeoutMs, () => webSocket.terminate());
    const channels = new WebSocketChannels(webSocket, {
      count: REMOTE_CHANNELS,
      base64: protocol.includes("base64"),
      closes: protocol.startsWith("v5"),
      onActivity: () => idle.touch(),
    });
    void channels.closed.then(() => idle.stop());
    void serve(opening, request, prepared, new WebSocketRemote(channels, protocol, request));
  });
}

async function spdyRemote(opening: Opening, request: RemoteRequest, prepared: Prepared): Promise<void> {
  const protocol = acceptSpdy(opening.message, opening.socket, SPDY_PROTOCOLS);
  if (protocol === undefined) return prepared.abandon();
  const connection = spdy(opening, opening.socket, (stream) => remote.add(stream));
  const remote = new SpdyRemote(protocol, request, connection);
  try {
    await remote.complete(opening.options.creationTimeoutMs);
  } catch (error) {
    prepared.abandon();
    warn(opening, request, error);
    return remote.finish(error);
  }
  await serve(opening, request, prepared, remote);
}

async function serve(opening: Opening, request: RemoteRequest, prepared: Prepared, remote: Remote): Promise<void> {
  try {
    await prepared.serve(remote);
    await remote.finish(undefined);
  } catch (error) {
    // That a command ended with another code than 0 is its client's affair.
    if (!(error instanceof NonZeroExit)) warn(opening, request, error);
    await remote.finish(error);
  }
}

// --- port-forward -----------------------------------------------------------------------------------------------------

function openPortForward(opening: Opening, request: PortForwardRequest): void {
  const { message, socket, head } = opening;
  if (upgradeOf(message) === "spdy") {
    if (acceptSpdy(message, socket, [PORT_FORWARD_PROTOCOL]) !== undefined) spdyPortForward(opening, request, socket);
    return;
  }
  const supported = [TUNNEL_PROTOCOL, ...PORT_FORWARD_WEBSOCKET_PROTOCOLS];
  acceptWebSocket(message, socket, head, supported, (webSocket, protocol) => {
    if (protocol === TUNNEL_PROTOCOL) return spdyPortForward(opening, request, createWebSocketStream(webSocket));
    const idle = new IdleTimer(opening.options.idleTimeoutMs, () => webSocket.terminate());
    const channels = new WebSocketChannels(webSocket, {
      count: request.ports.length * 2,
      base64: protocol.includes("base64"),
      closes: false,
      onActivity: () => idle.touch(),
    });
    void channels.closed.then(() => idle.stop());
    void forwardChannels(channels, request.ports, forwardOptions(opening, request));
  });
}

function spdyPortForward(opening: Opening, request: PortForwardRequest, transport: Duplex): void {
  const session = new SpdyPortForward(forwardOptions(opening, request));
  const connection = spdy(opening, transport, (stream) => session.add(stream));
  void connection.closed.then(() => session.stop());
}

const forwardOptions = (
  { context, options, ...opening }: Opening,
  request: PortForwardRequest,
): PortForwardOptions => ({
  sandboxId: request.sandboxId,
  creationTimeoutMs: options.creationTimeoutMs,
  dial: async (port) => {
    try {
      return await dialPod(context, request.sandboxId, port);
    } catch (error) {
      warn({ context, options, ...opening }, request, error);
      throw error;
    }
  },
});

// --- both -------------------------------------------------------------------------------------------------------------

/** What came behind the request is the connection's first bytes, except in a tunnel, whose WebSocket has taken them. */
function spdy(opening: Opening, transport: Duplex, onStream: (stream: SpdyStream) => boolean): SpdyConnection {
  if (transport === opening.socket && opening.head.length > 0) transport.unshift(opening.head);
  const idle = new IdleTimer(opening.options.idleTimeoutMs, () => connection.destroy());
  const connection = new SpdyConnection(transport, { onStream, onActivity: () => idle.touch() });
  void connection.closed.then(() => idle.stop());
  return connection;
}

function warn({ context }: Opening, request: StreamRequest, error: unknown): void {
  const { kind } = request;
  const of = request.kind === "portforward" ? { sandbox: request.sandboxId } : { container: request.containerId };
  context.log.warn({ stream: kind, ...of, err: error }, "a stream failed");
}
