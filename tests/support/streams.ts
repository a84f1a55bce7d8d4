/** Clients of the streaming server: SPDY by berth's own implementation, WebSocket by the library, and the real crictl. */
import { spawn } from "node:child_process";
import { createHash } from "node:crypto";
import { existsSync } from "node:fs";
import { request } from "node:http";
import type { Socket } from "node:net";
import { buffer } from "node:stream/consumers";
import { type SpdyStream, SpdyConnection } from "@berth/cri/spdy";
import { WebSocket } from "ws";
import type { TestDaemon } from "./daemon.ts";

export const sha256 = (bytes: Uint8Array): string => createHash("sha256").update(bytes).digest("hex");

export interface Upgraded {
  readonly socket: Socket;
  readonly head: Buffer;
  readonly protocol: string;
}

/** As client-go asks; a refusal rejects with "STATUS body". */
export function upgradeToSpdy(url: string, protocols: readonly string[]): Promise<Upgraded> {
  const { promise, resolve, reject } = Promise.withResolvers<Upgraded>();
  const headers = {
    connection: "Upgrade",
    upgrade: "SPDY/3.1",
    ...(protocols.length > 0 && { "x-stream-protocol-version": [...protocols] }),
  };
  const call = request(url, { method: "POST", headers, agent: false });
  call.on("upgrade", (response, socket, head) => {
    const protocol = String(response.headers["x-stream-protocol-version"] ?? "");
    resolve({ socket: socket as Socket, head, protocol });
  });
  call.on("response", (response) => {
    void buffer(response).then((body) => reject(new Error(`${response.statusCode} ${body.toString()}`)));
  });
  call.on("error", reject).end();
  return promise;
}

export async function spdy(url: string, protocols: readonly string[]): Promise<SpdyConnection & { socket: Socket }> {
  const { socket, head } = await upgradeToSpdy(url, protocols);
  if (head.length > 0) socket.unshift(head);
  return Object.assign(new SpdyConnection(socket, { role: "client" }), { socket });
}

export interface SpdyExec {
  readonly connection: SpdyConnection & { socket: Socket };
  readonly stdin: SpdyStream | undefined;
  readonly resize: SpdyStream | undefined;
  readonly stdout: Promise<Buffer>;
  readonly stderr: Promise<Buffer>;
  /** Of the error stream. */
  readonly status: Promise<string>;
}

const nothing = Promise.resolve(Buffer.alloc(0));

/** Makes the streams that a request with these fields promises, in client-go's order. */
export async function spdyExec(
  url: string,
  want: { readonly stdin?: boolean; readonly tty?: boolean },
  protocols: readonly string[] = ["v4.channel.k8s.io"],
): Promise<SpdyExec> {
  const connection = await spdy(url, protocols);
  const open = (type: string): Promise<SpdyStream> => connection.open(new Map([["streamtype", type]]));
  const error = await open("error");
  error.end();
  const stdin = want.stdin ? await open("stdin") : undefined;
  stdin?.resume();
  const stdout = await open("stdout");
  const stderr = want.tty ? undefined : await open("stderr");
  const resize = want.tty ? await open("resize") : undefined;
  resize?.resume();
  return {
    connection,
    stdin,
    resize,
    stdout: buffer(stdout),
    stderr: stderr ? buffer(stderr) : nothing,
    status: buffer(error).then(String),
  };
}

/** Every message as [channel, payload], until the server closes. */
export async function webSocketMessages(
  url: string,
  protocols: readonly string[],
  begin: (socket: WebSocket) => void,
): Promise<{ protocol: string; messages: Map<number, Buffer> }> {
  const socket = new WebSocket(url.replace(/^http/, "ws"), [...protocols]);
  const parts = new Map<number, Buffer[]>();
  const base64 = protocols[0]?.includes("base64") ?? false;
  socket.on("message", (data: Buffer) => {
    const channel = base64 ? (data[0] ?? 0) - 0x30 : (data[0] ?? 0);
    const payload = base64 ? Buffer.from(data.toString("latin1", 1), "base64") : data.subarray(1);
    parts.set(channel, [...(parts.get(channel) ?? []), payload]);
  });
  socket.on("open", () => begin(socket));
  const { promise, resolve, reject } = Promise.withResolvers<void>();
  socket.on("error", reject).on("close", () => resolve());
  await promise;
  const messages = new Map([...parts].map(([channel, payloads]) => [channel, Buffer.concat(payloads)]));
  return { protocol: socket.protocol, messages };
}

/** The real crictl: $CRICTL, or the first on the path. */
export const CRICTL = [
  process.env["CRICTL"] ?? "",
  ...(process.env["PATH"] ?? "").split(":").map((dir) => `${dir}/crictl`),
].find((file) => file !== "" && existsSync(file));

export interface Ran {
  readonly code: number;
  readonly stdout: Buffer;
  readonly stderr: string;
}

/** Runs crictl against the daemon, with `stdin` as its whole input. */
export async function crictl(daemon: TestDaemon, args: readonly string[], stdin?: Uint8Array): Promise<Ran> {
  const endpoint = `unix://${daemon.socket}`;
  const argv = ["--config", "/dev/null", "--runtime-endpoint", endpoint, "--image-endpoint", endpoint, ...args];
  const child = spawn(CRICTL ?? "crictl", argv, { stdio: "pipe" });
  child.stdin.on("error", () => child.stdin.destroy());
  child.stdin.end(stdin);
  const outputs = Promise.all([buffer(child.stdout), buffer(child.stderr)]);
  const { promise, resolve, reject } = Promise.withResolvers<number>();
  child.on("error", reject).on("close", (code) => resolve(code ?? 255));
  const code = await promise;
  const [stdout, stderr] = await outputs;
  return { code, stdout, stderr: stderr.toString() };
}
