/** The client's end of Exec, Attach and PortForward over SPDY/3.1, as client-go has it (tools/remotecommand, tools/portforward). */
import type { IncomingMessage } from "node:http";
import { request as httpsRequest } from "node:https";
import type { Duplex, Writable } from "node:stream";
import { text } from "node:stream/consumers";
import { pipeline } from "node:stream/promises";
import type { ConnectionOptions } from "node:tls";
import { SpdyConnection, type SpdyStream } from "@berth/cri/spdy";
import { Failure } from "../failure.ts";
import { parseStatus, type StreamEnd, type StreamOutputs, type Wired } from "./client.ts";

// Imported, node:http would load all of undici for three of its names: 16 MB and 50 ms.
const { request: httpRequest } = process.getBuiltinModule("node:http");

export interface Connected {
  readonly connection: SpdyConnection;
  /** Of those that were asked for. */
  readonly protocol: string;
}

/** Asks for SPDY with one of these protocols. Rejects with Failure where the server will not. */
export async function connectSpdy(
  url: string,
  protocols: readonly string[],
  tls: ConnectionOptions = {},
): Promise<Connected> {
  const { promise, resolve, reject } = Promise.withResolvers<Connected>();
  const headers = { connection: "Upgrade", upgrade: "SPDY/3.1", "x-stream-protocol-version": [...protocols] };
  const secure = url.startsWith("https:");
  const call = secure
    ? httpsRequest(url, { method: "POST", headers, agent: false, ...tls })
    : httpRequest(url, { method: "POST", headers, agent: false });
  call.on("upgrade", (response: IncomingMessage, socket: Duplex, head: Buffer) => {
    if (head.length > 0) socket.unshift(head);
    const connection = new SpdyConnection(socket, { role: "client", resetEnds: true });
    resolve({ connection, protocol: String(response.headers["x-stream-protocol-version"] ?? "") });
  });
  call.on("response", (response) => {
    void text(response).then((said) =>
      reject(new Failure(`unable to upgrade connection: ${response.statusCode} ${said.trim()}`)),
    );
  });
  call.on("error", (error) =>
    reject(new Failure(`error sending request: ${error.message}`, undefined, { cause: error })),
  );
  call.end();
  return promise;
}

export interface SpdyRequest {
  readonly url: string;
  readonly stdin: boolean;
  readonly tty: boolean;
  readonly tls: ConnectionOptions;
}

const V4 = "v4.channel.k8s.io";
const PROTOCOLS = [V4, "v3.channel.k8s.io", "v2.channel.k8s.io", "channel.k8s.io"];

/** Output flows from now on. */
export async function openSpdyStream({ url, stdin, tty, tls }: SpdyRequest, outputs: StreamOutputs): Promise<Wired> {
  const { connection, protocol } = await connectSpdy(url, PROTOCOLS, tls);
  const open = (type: string): Promise<SpdyStream> => connection.open(new Map([["streamtype", type]]));
  const error = await open("error");
  error.end();
  const input = stdin ? await open("stdin") : undefined;
  input?.resume();
  const out = await open("stdout");
  const err = tty ? undefined : await open("stderr");
  const sizes = tty ? await open("resize") : undefined;
  sizes?.resume();
  let detached = false;
  const copies = [copy(out, outputs.stdout), ...(err ? [copy(err, outputs.stderr)] : [])];
  const ended = endOf(connection, error, copies, protocol !== V4);
  return {
    ended: ended.then((end): StreamEnd => (detached ? { kind: "detached" } : end)),
    writeStdin: (chunk) => write(input, Buffer.from(chunk)),
    endStdin: () => void input?.end(),
    resize: (columns, rows) => void write(sizes, Buffer.from(`${JSON.stringify({ Width: columns, Height: rows })}\n`)),
    detach: () => {
      detached = true;
      connection.destroy();
    },
  };
}

/** A reader that has gone is told by the process's own end. */
const copy = (from: SpdyStream, to: Writable): Promise<void> =>
  pipeline(from, to, { end: false }).catch(() => undefined);

/** `silentSuccess`: as it is before v4. */
async function endOf(
  connection: SpdyConnection,
  error: SpdyStream,
  outputs: readonly Promise<void>[],
  silentSuccess: boolean,
): Promise<StreamEnd> {
  const status = await text(error).catch(() => undefined);
  await Promise.all(outputs);
  connection.destroy();
  if (status === undefined || (status === "" && !silentSuccess))
    return { kind: "lost", message: "the connection was lost" };
  return status === "" ? { kind: "exit", code: 0 } : parseStatus(Buffer.from(status));
}

function write(stream: SpdyStream | undefined, chunk: Buffer): Promise<void> {
  if (!stream?.writable || stream.write(chunk)) return Promise.resolve();
  const { promise, resolve } = Promise.withResolvers<void>();
  const done = (): void => {
    stream.off("drain", done).off("close", done);
    resolve();
  };
  stream.on("drain", done).on("close", done);
  return promise;
}
