/** The HTTP side of an upgrade: which protocol both sides speak, and the answer by hand where it is SPDY. */
import type { IncomingMessage } from "node:http";
import type { Duplex } from "node:stream";
import { type WebSocket, WebSocketServer } from "ws";

const REASONS: Readonly<Record<number, string>> = { 400: "Bad Request", 403: "Forbidden", 404: "Not Found" };
/** Of one message. Clients send 32 KB at a time. */
const MOST_MESSAGE = 16 << 20;

export function refuse(socket: Duplex, status: number, reason: string, headers: readonly string[] = []): void {
  const body = `${reason}\n`;
  const lines = [
    `HTTP/1.1 ${status} ${REASONS[status] ?? ""}`,
    "Connection: close",
    "Content-Type: text/plain",
    `Content-Length: ${Buffer.byteLength(body)}`,
    ...headers,
  ];
  socket.end(`${lines.join("\r\n")}\r\n\r\n${body}`);
}

export type Upgrade = "spdy" | "websocket" | undefined;

export function upgradeOf(message: IncomingMessage): Upgrade {
  const wanted = (message.headers.upgrade ?? "").toLowerCase();
  return wanted === "spdy/3.1" ? "spdy" : wanted === "websocket" ? "websocket" : undefined;
}

const STREAM_PROTOCOL = "x-stream-protocol-version";

/**
 * Answers 101 with the first of `supported` (newest first) that the client offers; "" where it offers none at all, as clients did
 * before there was a choice. undefined: nothing in common, and the client has been told.
 */
export function acceptSpdy(message: IncomingMessage, socket: Duplex, supported: readonly string[]): string | undefined {
  const offered = list(message.headersDistinct[STREAM_PROTOCOL]);
  const chosen = offered.length === 0 ? "" : offered.find((protocol) => supported.includes(protocol));
  if (chosen === undefined) {
    const accepted = supported.map((protocol) => `X-Accepted-Stream-Protocol-Versions: ${protocol}`);
    const reason = `unable to upgrade: unable to negotiate protocol: client supports [${offered.join(" ")}], server accepts [${supported.join(" ")}]`;
    refuse(socket, 403, reason, accepted);
    return undefined;
  }
  const version = chosen === "" ? [] : [`X-Stream-Protocol-Version: ${chosen}`];
  const lines = ["HTTP/1.1 101 Switching Protocols", "Connection: Upgrade", "Upgrade: SPDY/3.1", ...version];
  socket.write(`${lines.join("\r\n")}\r\n\r\n`);
  return chosen;
}

interface Negotiated extends IncomingMessage {
  chosenProtocol?: string;
}

const webSockets = new WebSocketServer({ noServer: true, perMessageDeflate: false, maxPayload: MOST_MESSAGE });
webSockets.on("headers", (headers: string[], message: Negotiated) => {
  if (message.chosenProtocol) headers.push(`Sec-WebSocket-Protocol: ${message.chosenProtocol}`);
});

/** As acceptSpdy; `open` gets the WebSocket and the subprotocol. The first that the client offers and the server has is taken. */
export function acceptWebSocket(
  message: Negotiated,
  socket: Duplex,
  head: Buffer,
  supported: readonly string[],
  open: (webSocket: WebSocket, protocol: string) => void,
): void {
  const offered = list(message.headersDistinct["sec-websocket-protocol"]);
  const chosen = offered.length === 0 ? "" : offered.find((protocol) => supported.includes(protocol));
  if (chosen === undefined)
    return refuse(socket, 403, `no subprotocol in common; offer one of ${supported.join(", ")}`);
  message.chosenProtocol = chosen;
  // Names of Kubernetes' subprotocols hold a "/", which RFC 6455 does not allow and the library refuses to read.
  delete message.headers["sec-websocket-protocol"];
  webSockets.handleUpgrade(message, socket, head, (webSocket) => open(webSocket, chosen));
}

/** The values of a header that may be repeated, or hold several with commas between. */
const list = (values: readonly string[] | undefined): string[] =>
  (values ?? [])
    .flatMap((value) => value.split(","))
    .map((value) => value.trim())
    .filter((value) => value !== "");
