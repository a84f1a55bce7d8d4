/** The server's end of Exec and Attach, for tests: WebSockets that speak the channel protocol of Kubernetes. */
import { once } from "node:events";
import { createServer } from "node:http";
import type { AddressInfo } from "node:net";
import { type WebSocket, WebSocketServer } from "ws";

export interface Peer {
  readonly protocol: string;
  stdout(data: string | Uint8Array): void;
  stderr(data: string | Uint8Array): void;
  /** A v1.Status, and the end. */
  finish(status: object): void;
  exit(code: number): void;
  /** Any message, right or wrong. */
  raw(data: Uint8Array): void;
  close(code?: number): void;
  terminate(): void;
  onStdin(handler: (data: Buffer) => void): void;
  onStdinEnd(handler: () => void): void;
  onResize(handler: (size: unknown) => void): void;
  readonly closed: Promise<void>;
}

export interface StreamServer {
  readonly base: string;
  close(): Promise<void>;
}

/** `handle` gets each connection with the path of its URL. */
export async function streamServer(
  handle: (peer: Peer, path: string) => void,
  protocols: readonly string[] = ["v5.channel.k8s.io", "v4.channel.k8s.io"],
): Promise<StreamServer> {
  const http = createServer();
  const sockets = new WebSocketServer({
    server: http,
    handleProtocols: (offered) => protocols.find((name) => offered.has(name)) ?? false,
  });
  sockets.on("connection", (socket, request) => handle(peerOf(socket), request.url ?? ""));
  http.listen(0, "127.0.0.1");
  await once(http, "listening");
  return {
    base: `http://127.0.0.1:${(http.address() as AddressInfo).port}`,
    close: async () => {
      for (const client of sockets.clients) client.terminate();
      http.closeAllConnections();
      http.close();
      await once(http, "close");
    },
  };
}

function peerOf(socket: WebSocket): Peer {
  const handlers: { stdin?: (data: Buffer) => void; stdinEnd?: () => void; resize?: (size: unknown) => void } = {};
  const early: Buffer[] = [];
  const dispatch = (data: Buffer): void => {
    const payload = data.subarray(1);
    if (data[0] === 0) handlers.stdin?.(payload);
    else if (data[0] === 4) handlers.resize?.(JSON.parse(payload.toString()));
    else if (data[0] === 255 && payload[0] === 0) handlers.stdinEnd?.();
  };
  socket.on("message", (data) => {
    early.push(data as Buffer);
    dispatch(data as Buffer);
  });
  const send = (channel: number, data: string | Uint8Array): void =>
    socket.send(Buffer.concat([Buffer.of(channel), Buffer.from(data)]));
  const closed = Promise.withResolvers<void>();
  socket.on("close", () => closed.resolve());
  const finish = (status: object): void => {
    send(3, JSON.stringify(status));
    socket.close(1000);
  };
  /** What came before anybody asked for it. */
  const replay = (channel: number, handler: (payload: Buffer) => void): void => {
    for (const data of early) if (data[0] === channel) handler(data.subarray(1));
  };
  return {
    protocol: socket.protocol,
    stdout: (data) => send(1, data),
    stderr: (data) => send(2, data),
    finish,
    exit: (code) =>
      finish(
        code === 0
          ? { status: "Success" }
          : {
              status: "Failure",
              reason: "NonZeroExitCode",
              details: { causes: [{ reason: "ExitCode", message: String(code) }] },
            },
      ),
    raw: (data) => socket.send(data),
    close: (code) => socket.close(code),
    terminate: () => socket.terminate(),
    onStdin: (handler) => {
      handlers.stdin = handler;
      replay(0, handler);
    },
    onStdinEnd: (handler) => {
      handlers.stdinEnd = handler;
      replay(255, () => handler());
    },
    onResize: (handler) => {
      handlers.resize = handler;
      replay(4, (payload) => handler(JSON.parse(payload.toString())));
    },
    closed: closed.promise,
  };
}
