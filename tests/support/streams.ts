/** Clients of the streaming server: SPDY by berth's own implementation, WebSocket by the library, and the real crictl. */
import { spawn } from "node:child_process";
import { createHash } from "node:crypto";
import { existsSync } from "node:fs";
import { type OutgoingHttpHeaders, request } from "node:http";
import { request as secureRequest } from "node:https";
import type { Socket } from "node:net";
import { buffer } from "node:stream/consumers";
import { type SpdyStream, SpdyConnection } from "@berth/cri/spdy";
import type { TestDaemon } from "./daemon.ts";

export const sha256 = (bytes: Uint8Array): string => createHash("sha256").update(bytes).digest("hex");

export interface Upgraded {
  readonly socket: Socket;
  readonly head: Buffer;
  readonly protocol: string;
}

/** As client-go asks; a refusal rejects with "STATUS body". */
export const upgradeToSpdy = (url: string, protocols: readonly string[]): Promise<Upgraded> =>
  upgrade(url, {
    connection: "Upgrade",
    upgrade: "SPDY/3.1",
    ...(protocols.length > 0 && { "x-stream-protocol-version": [...protocols] }),
  });

function upgrade(url: string, headers: OutgoingHttpHeaders): Promise<Upgraded> {
  const { promise, resolve, reject } = Promise.withResolvers<Upgraded>();
  const method = headers["upgrade"] === "websocket" ? "GET" : "POST";
  const call = (url.startsWith("https:") ? secureRequest : request)(url, { method, headers, agent: false });
  call.on("upgrade", (response, socket, head) => {
    const protocol = String(response.headers["x-stream-protocol-version"] ?? "");
    resolve({ socket, head, protocol });
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

/** What came on each channel, until the server closes. */
export async function webSocketMessages(
  url: string,
  protocols: readonly string[],
  begin: (socket: WebSocket) => void,
): Promise<{ protocol: string; messages: Map<number, Buffer> }> {
  const socket = new WebSocket(url.replace(/^http/, "ws"), [...protocols]);
  socket.binaryType = "arraybuffer";
  const parts = new Map<number, Buffer[]>();
  const { promise, resolve, reject } = Promise.withResolvers<void>();
  socket.addEventListener("message", (event: MessageEvent) => {
    const data = event.data as string | ArrayBuffer;
    const text = typeof data === "string";
    const bytes = text ? Buffer.from(data.slice(1), "base64") : Buffer.from(data).subarray(1);
    const channel = text ? Number(data[0]) : (Buffer.from(data)[0] ?? 0);
    parts.set(channel, [...(parts.get(channel) ?? []), bytes]);
  });
  socket.addEventListener("open", () => begin(socket));
  socket.addEventListener("error", () => reject(new Error(`WebSocket ${url} failed`)));
  socket.addEventListener("close", () => resolve());
  await promise;
  const messages = new Map([...parts].map(([channel, payloads]) => [channel, Buffer.concat(payloads)]));
  return { protocol: socket.protocol, messages };
}

/** A WebSocket's connection by hand, for one that sends `bytes` on a channel and then vanishes. */
export async function rawWebSocket(url: string, protocol: string, channel: number, bytes: Buffer): Promise<Socket> {
  const key = Buffer.alloc(16).toString("base64");
  const headers = { "sec-websocket-version": "13", "sec-websocket-key": key, "sec-websocket-protocol": protocol };
  const { socket } = await upgrade(url, { connection: "Upgrade", upgrade: "websocket", ...headers });
  // One binary message, masked (as a client's must be) with zeros: RFC 6455, section 5.2.
  const header = Buffer.alloc(14);
  header.writeUInt16BE(0x82ff, 0);
  header.writeBigUInt64BE(BigInt(bytes.length + 1), 2);
  socket.write(Buffer.concat([header, Buffer.of(channel), bytes]));
  return socket.on("error", () => socket.destroy());
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
export async function crictl(
  daemon: TestDaemon,
  args: readonly string[],
  stdin?: Uint8Array,
  program: string = CRICTL ?? "crictl",
): Promise<Ran> {
  const child = spawn(program, argvOf(daemon, args), { stdio: "pipe" });
  child.stdin.on("error", () => child.stdin.destroy());
  child.stdin.end(stdin);
  const outputs = Promise.all([buffer(child.stdout), buffer(child.stderr)]);
  const { promise, resolve, reject } = Promise.withResolvers<number>();
  child.on("error", reject).on("close", (code) => resolve(code ?? 255));
  const code = await promise;
  const [stdout, stderr] = await outputs;
  return { code, stdout, stderr: stderr.toString() };
}

function argvOf(daemon: TestDaemon, args: readonly string[]): string[] {
  const endpoint = `unix://${daemon.socket}`;
  const patience = ["--timeout", "60s"]; // of each call; by itself it is two seconds
  return ["--config", "/dev/null", ...patience, "--runtime-endpoint", endpoint, "--image-endpoint", endpoint, ...args];
}

/** One that runs until it is disposed of. */
export function spawnCrictl(
  daemon: TestDaemon,
  args: readonly string[],
  program: string,
): AsyncDisposable & { until(pattern: RegExp): Promise<RegExpExecArray> } {
  const child = spawn(program, argvOf(daemon, args), { stdio: ["ignore", "pipe", "inherit"] });
  const { promise: gone, resolve } = Promise.withResolvers<void>();
  child.once("close", () => resolve());
  let output = "";
  child.stdout.on("data", (chunk: Buffer) => (output += chunk.toString()));
  return {
    async until(pattern) {
      for (;;) {
        const found = pattern.exec(output);
        if (found) return found;
        if (child.exitCode !== null) throw new Error(`crictl ended with ${child.exitCode}: ${output}`);
        await Promise.race([new Promise((heard) => child.stdout.once("data", heard)), gone]);
      }
    },
    async [Symbol.asyncDispose]() {
      child.kill("SIGINT");
      await gone;
    },
  };
}
