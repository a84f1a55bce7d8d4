/** The channel's two ends without a machine, and its frames by hand (src/channel.h). */
import assert from "node:assert/strict";
import { type ChildProcess, spawn } from "node:child_process";
import { once } from "node:events";
import { connect, createServer, type Server, type Socket } from "node:net";
import { join } from "node:path";
import type { TestContext } from "node:test";
import { reachThrough, type Reach } from "@berth/kernel";
import { bosun, scratch } from "./bosun.ts";

export const FRAME = { reset: 1, resetAck: 2, open: 3, opened: 4, data: 5, give: 6, shut: 7, close: 8 } as const;
const MAGIC = 0x63767362;
const HEADER = 20;

function fnv(bytes: Uint8Array): number {
  return bytes.reduce((hash, byte) => Math.imul(hash ^ byte, 16_777_619) >>> 0, 2_166_136_261);
}

export function frame(type: number, stream: number, body: Uint8Array | string = ""): Buffer {
  const bytes = Buffer.from(body as string);
  const header = Buffer.alloc(HEADER);
  for (const [at, value] of [MAGIC, stream, type, bytes.length].entries()) header.writeUInt32LE(value, at * 4);
  header.writeUInt32LE(fnv(header.subarray(0, 16)), 16);
  return Buffer.concat([header, bytes]);
}

export const u32 = (value: number): Buffer => Buffer.from(Uint32Array.of(value).buffer);
export const nonce = (value: number): Buffer => Buffer.concat([u32(value), u32(0)]);

export interface Frame {
  readonly type: number;
  readonly stream: number;
  readonly body: Buffer;
}

/** One end of a pipe of frames; zeros before a frame are what a host fills a former one's frame up with. */
export class Frames {
  readonly socket: Socket;
  #bytes: Buffer = Buffer.alloc(0);

  constructor(socket: Socket) {
    this.socket = socket;
    socket.on("error", () => {});
  }

  send(...frames: readonly Uint8Array[]): void {
    this.socket.write(Buffer.concat(frames));
  }

  async next(): Promise<Frame> {
    for (;;) {
      const begin = this.#bytes.findIndex((byte) => byte !== 0);
      this.#bytes = begin < 0 ? Buffer.alloc(0) : this.#bytes.subarray(begin);
      const size = this.#bytes.length < HEADER ? Infinity : HEADER + this.#bytes.readUInt32LE(12);
      if (this.#bytes.length >= size) {
        const [whole, rest] = [this.#bytes.subarray(0, size), this.#bytes.subarray(size)];
        this.#bytes = rest;
        assert.equal(whole.readUInt32LE(0), MAGIC);
        return { type: whole.readUInt32LE(8), stream: whole.readUInt32LE(4), body: whole.subarray(HEADER) };
      }
      const [chunk] = (await once(this.socket, "data")) as [Buffer];
      this.#bytes = Buffer.concat([this.#bytes, chunk]);
    }
  }
}

export interface Running {
  readonly process: ChildProcess;
  readonly said: () => string;
}

/** Returns once it listens. */
async function start(t: TestContext, ...args: readonly string[]): Promise<Running> {
  const child = spawn(bosun, args, { stdio: ["ignore", "pipe", "pipe"] });
  let said = "";
  child.stderr.on("data", (chunk: Buffer) => (said += chunk.toString()));
  const running = { process: child, said: () => said };
  t.after(async () => await ended(running, "SIGTERM"));
  const ready = await Promise.race([once(child.stdout, "data"), once(child, "exit")]);
  assert.equal(String(ready[0]), "ready\n", said);
  return running;
}

/** Its exit status, after `signal` where one is given. */
export async function ended({ process: child }: Running, signal?: NodeJS.Signals): Promise<number | null> {
  if (child.exitCode === null && child.signalCode === null) {
    const over = once(child, "close");
    if (signal !== undefined) child.kill(signal);
    await over;
  }
  return child.exitCode;
}

/** `bosun relay` at `dir`/relay.sock. */
export async function startRelay(t: TestContext, dir: string): Promise<Running> {
  return await start(t, "relay", "--channel", join(dir, "port"), "--listen", join(dir, "relay.sock"));
}

export interface Ends {
  readonly dir: string;
  readonly serve: string;
  readonly guest: Running;
  readonly relay: Running;
  readonly reach: Reach;
}

/** `bosun guest` with its serve, on a socket in the port's place. */
export async function startGuest(t: TestContext, dir: string): Promise<Running> {
  return await start(t, "guest", "--channel", `unix:${join(dir, "port")}`, "--serve", join(dir, "serve.sock"));
}

export async function bothEnds(t: TestContext): Promise<Ends> {
  const dir = scratch(t);
  const guest = await startGuest(t, dir);
  const relay = await startRelay(t, dir);
  return { dir, serve: join(dir, "serve.sock"), guest, relay, reach: reachThrough(join(dir, "relay.sock")) };
}

/** A socket server of the "machine's"; ends with the test. */
export async function listen(t: TestContext, at: string | number, serve: (socket: Socket) => void): Promise<Server> {
  const sockets = new Set<Socket>();
  const server = createServer({ allowHalfOpen: true }, (socket) => {
    sockets.add(socket);
    socket.on("error", () => {});
    serve(socket);
  });
  server.listen(typeof at === "number" ? { port: at, host: "127.0.0.1" } : { path: at });
  await once(server, "listening");
  t.after(() => {
    for (const socket of sockets) socket.destroy();
    server.close();
  });
  return server;
}

/** A guest that the test plays: what a relay at `dir` sees of it, once it has been reset. */
export async function fakeGuest(t: TestContext, dir: string): Promise<{ frames: Frames; relay: Running }> {
  const connected = Promise.withResolvers<Socket>();
  await listen(t, join(dir, "port"), (socket) => connected.resolve(socket));
  const relay = await startRelay(t, dir);
  const frames = new Frames(await connected.promise);
  const reset = await frames.next();
  assert.equal(reset.type, FRAME.reset);
  frames.send(frame(FRAME.resetAck, 0, reset.body));
  return { frames, relay };
}

/** A connection to the guest's port, as a host that the test plays. */
export async function fakeHost(t: TestContext, dir: string): Promise<Frames> {
  const socket = connect(join(dir, "port"));
  await once(socket, "connect");
  t.after(() => socket.destroy());
  return new Frames(socket);
}
