/** Local ports whose connections are carried to a pod, over one SPDY connection (client-go's tools/portforward). */
import { createServer, type Server, type Socket } from "node:net";
import { text } from "node:stream/consumers";
import type { ConnectionOptions } from "node:tls";
import type { SpdyConnection } from "@berth/cri/spdy";
import { createWebSocketStream, WebSocket } from "ws";
import { onSignals } from "../interrupt.ts";
import { connectSpdy } from "../stream/spdy.ts";
import type { Context } from "./command.ts";
import { CrictlError } from "./errors.ts";
import type { Transport } from "./transport.ts";

export interface ForwardedPort {
  /** 0: any free one. */
  readonly local: number;
  readonly remote: number;
}

/** "8080", "8080:80", ":80". */
export function parsePorts(texts: readonly string[]): ForwardedPort[] {
  return texts.map((given) => {
    const [first = "", second, more] = given.split(":");
    const number = (port: string): number => {
      if (!/^\d{1,5}$/.test(port) || Number(port) > 65535)
        throw new CrictlError(`error parsing port ${JSON.stringify(port)} of '${given}'`);
      return Number(port);
    };
    if (more !== undefined) throw new CrictlError(`invalid port format '${given}'`);
    const remote = number(second ?? first);
    if (remote === 0) throw new CrictlError("remote port must be > 0");
    return { local: second === undefined ? remote : first === "" ? 0 : number(first), remote };
  });
}

export interface Forwarding {
  readonly url: string;
  readonly transport: Transport;
  readonly tls: ConnectionOptions;
  readonly ports: readonly ForwardedPort[];
}

const PROTOCOL = "portforward.k8s.io";
const ADDRESSES = ["127.0.0.1", "::1"];

export class PortForwarder implements AsyncDisposable {
  readonly #context: Context;
  readonly #ports: readonly ForwardedPort[];
  readonly #connection: SpdyConnection;
  readonly #servers: Server[] = [];
  #requests = 0;

  private constructor(context: Context, connection: SpdyConnection, ports: readonly ForwardedPort[]) {
    this.#context = context;
    this.#connection = connection;
    this.#ports = ports;
  }

  static async open(context: Context, { url, transport, tls, ports }: Forwarding): Promise<PortForwarder> {
    const connection =
      transport === "spdy" ? (await connectSpdy(url, [PROTOCOL], tls)).connection : await tunnel(url, tls);
    return new PortForwarder(context, connection, ports);
  }

  /** On both loopback addresses, of which one is enough. */
  async listen(): Promise<void> {
    for (const port of this.#ports) {
      const failures: string[] = [];
      for (const address of ADDRESSES) {
        try {
          await this.#listenOn(address, port);
        } catch (error) {
          failures.push((error as Error).message);
        }
      }
      if (failures.length === ADDRESSES.length)
        throw new CrictlError(
          `unable to listen on any of the requested ports: [{${port.local} ${port.remote}}]: ${failures.join("; ")}`,
        );
    }
  }

  /** Until a signal comes; rejects where the connection is lost. */
  async ended(): Promise<void> {
    const interrupted = Promise.withResolvers<"interrupted">();
    using _ = onSignals(this.#context.shell, () => interrupted.resolve("interrupted"));
    if ((await Promise.race([interrupted.promise, this.#connection.closed])) !== "interrupted")
      throw new CrictlError("lost connection to pod");
  }

  async #listenOn(address: string, port: ForwardedPort): Promise<void> {
    const server = createServer({ allowHalfOpen: true }, (socket) => void this.#carry(socket, port));
    const { promise, resolve, reject } = Promise.withResolvers<void>();
    server.once("error", reject).listen(port.local, address, resolve);
    await promise;
    this.#servers.push(server);
    const bound = server.address();
    const local = bound !== null && typeof bound === "object" ? bound.port : port.local;
    const host = address.includes(":") ? `[${address}]` : address;
    this.#context.print(`Forwarding from ${host}:${local} -> ${port.remote}`);
  }

  async #carry(socket: Socket, { local, remote }: ForwardedPort): Promise<void> {
    socket.on("error", () => socket.destroy());
    this.#context.print(`Handling connection for ${local}`);
    const headers = (type: string) =>
      new Map([
        ["streamtype", type],
        ["port", String(remote)],
        ["requestid", String(request)],
      ]);
    const request = this.#requests++;
    try {
      const error = await this.#connection.open(headers("error"));
      error.end();
      const failure = text(error);
      const data = await this.#connection.open(headers("data"));
      socket.on("close", () => data.destroy());
      data.on("close", () => socket.destroy());
      socket.pipe(data).pipe(socket);
      const said = await failure;
      if (said === "") return;
      this.#context.log("error", `an error occurred forwarding ${local} -> ${remote}: ${said}`);
      socket.destroy();
      // As kubectl's: what cannot reach its port once is not trusted to reach it again.
      this.#connection.destroy();
    } catch {
      // The connection is lost, which `ended` tells.
      socket.destroy();
    }
  }

  async [Symbol.asyncDispose](): Promise<void> {
    for (const server of this.#servers) server.close();
    this.#connection.destroy();
    await this.#connection.closed;
  }
}

/** SPDY inside of a WebSocket. The library takes no subprotocol with a "/": the header is set by hand, and the answer is not checked by it. */
async function tunnel(url: string, tls: ConnectionOptions): Promise<SpdyConnection> {
  const { SpdyConnection } = await import("@berth/cri/spdy");
  const socket = new WebSocket(url.replace(/^http/, "ws"), {
    perMessageDeflate: false,
    headers: { "Sec-WebSocket-Protocol": `SPDY/3.1+${PROTOCOL}` },
    finishRequest: (request) => {
      request.prependListener("upgrade", ({ headers }) => delete headers["sec-websocket-protocol"]);
      request.end();
    },
    ...tls,
  });
  const { promise, resolve, reject } = Promise.withResolvers<void>();
  socket.once("open", resolve).once("error", reject);
  await promise;
  return new SpdyConnection(createWebSocketStream(socket), { role: "client" });
}
