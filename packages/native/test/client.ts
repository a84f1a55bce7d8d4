/** A client of serve and of monitors, with a codec of its own: what it and the C side agree on comes from the tables alone. */
import assert from "node:assert/strict";
import { type ChildProcess, spawn } from "node:child_process";
import { once } from "node:events";
import {
  existsSync,
  mkdirSync,
  mkdtempSync,
  openSync,
  closeSync,
  readdirSync,
  readFileSync,
  readlinkSync,
  rmSync,
} from "node:fs";
import { createConnection, type Socket } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import type { TestContext } from "node:test";
import { MESSAGES, type MessageName } from "@berth/kernel";
import { type FieldType, type Fields, ORDERS, type OrderName, PLAN_VERSION } from "@berth/kernel";
import { bosun } from "./bosun.ts";

export type Value = number | bigint | string | Uint8Array | readonly (string | number | Uint8Array)[];
export type Values = Readonly<Record<string, Value>>;

const u16 = (value: number): Buffer => {
  const b = Buffer.alloc(2);
  b.writeUInt16LE(value);
  return b;
};
const u32 = (value: number): Buffer => {
  const b = Buffer.alloc(4);
  b.writeUInt32LE(value >>> 0);
  return b;
};
const u64 = (value: bigint): Buffer => {
  const b = Buffer.alloc(8);
  b.writeBigUInt64LE(BigInt.asUintN(64, value));
  return b;
};
const blob = (value: string | Uint8Array): Buffer => {
  const b = Buffer.from(value as string);
  return Buffer.concat([u32(b.length), b, Buffer.alloc(1)]);
};

function encodeField(type: FieldType, value: Value | undefined): Buffer {
  switch (type) {
    case "u32":
      return u32(Number(value ?? 0));
    case "u64":
    case "i64":
      return u64(BigInt((value ?? 0n) as number | bigint));
    case "str":
    case "bytes":
      return blob((value ?? "") as string | Uint8Array);
    case "u32s": {
      const list = (value ?? []) as number[];
      return Buffer.concat([u32(list.length), ...list.map(u32)]);
    }
    case "strs":
    case "blobs": {
      const list = (value ?? []) as (string | Uint8Array)[];
      return Buffer.concat([u32(list.length), ...list.map(blob)]);
    }
  }
}

/** Fields that are left out are 0 or empty. */
export function encodeFields(fields: Fields, values: Values): Buffer {
  for (const name of Object.keys(values)) assert.ok(name in fields, `no field ${name}`);
  return Buffer.concat(Object.entries(fields).map(([name, type]) => encodeField(type, values[name])));
}

export type Decoded = Record<string, number | bigint | string | Buffer>;
function decodeFields(fields: Fields, body: Buffer): Decoded {
  const out: Decoded = {};
  let at = 0;
  for (const [name, type] of Object.entries(fields)) {
    if (type === "u32") {
      out[name] = body.readUInt32LE(at);
      at += 4;
    } else if (type === "u64" || type === "i64") {
      out[name] = body.readBigUInt64LE(at);
      at += 8;
    } else {
      assert.ok(type === "str" || type === "bytes");
      const size = body.readUInt32LE(at);
      const bytes = body.subarray(at + 4, at + 4 + size);
      out[name] = type === "str" ? bytes.toString() : bytes;
      at += size + 5;
    }
  }
  assert.equal(at, body.length);
  return out;
}

export function frame(name: MessageName, id: number, values: Values = {}, timeoutMs = 0): Buffer {
  const body = encodeFields(MESSAGES[name].fields, values);
  return Buffer.concat([u32(body.length), u32(id), u16(MESSAGES[name].type), u16(0), u32(timeoutMs), body]);
}

export type PlanOrder = readonly [OrderName, Values?];
export function plan(...orders: PlanOrder[]): Buffer {
  const parts = orders.map(([name, values = {}]) => {
    const body = encodeFields(ORDERS[name].fields, values);
    return Buffer.concat([u16(ORDERS[name].code), u16(0), u32(body.length), body]);
  });
  return Buffer.concat([u32(PLAN_VERSION), u32(orders.length), ...parts]);
}

export const CLONE: PlanOrder = ["clone", { flags: 0n, cgroupSlot: 0xffffffff }];
export const ENV = ["PATH=/usr/sbin:/usr/bin:/sbin:/bin"];
export const exec = (...argv: string[]): PlanOrder => ["exec", { argv, env: ENV, keep: 0 }];
/** A container on the host's root: what these tests are about is the process, not where it lives. */
export const container = (...argv: string[]): Buffer => plan(CLONE, ["setsid"], ["park"], exec(...argv));
export const process_ = (...argv: string[]): Buffer => plan(CLONE, ["setsid"], exec(...argv));
export const sh = (script: string): Buffer => container("/bin/sh", "-c", script);
export const shProcess = (script: string): Buffer => process_("/bin/sh", "-c", script);

export interface Reply {
  readonly name: MessageName;
  readonly id: number;
  readonly fields: Decoded;
}
const NAMES = new Map(Object.entries(MESSAGES).map(([name, spec]) => [spec.type as number, name as MessageName]));

/** Connects however long the path is. */
export function connectTo(path: string): Socket {
  const directory = openSync(join(path, ".."), "r");
  const socket = createConnection({
    path: `/proc/self/fd/${directory}/${path.slice(path.lastIndexOf("/") + 1)}`,
    allowHalfOpen: true,
  });
  const release = (): void => {
    socket.off("connect", release).off("error", release);
    closeSync(directory);
  };
  socket.on("connect", release).on("error", release);
  return socket;
}

export class Link {
  readonly socket: Socket;
  readonly events: Reply[] = [];
  /** Every reply that no request of this link waits for. */
  readonly strays: Reply[] = [];
  closed = false;
  #pending: Buffer = Buffer.alloc(0);
  #waiting = new Map<number, { resolve(reply: Reply): void; reject(error: Error): void }>();
  #eventWaiters: ((reply: Reply) => void)[] = [];
  #id = 0;
  #raw = false;

  constructor(socket: Socket) {
    this.socket = socket;
    socket.on("data", (chunk: Buffer) => {
      if (!this.#raw) this.#receive(chunk);
    });
    socket.on("error", () => {});
    const over = (): void => {
      this.closed = true;
      for (const waiting of this.#waiting.values()) waiting.reject(new Error("connection closed"));
      this.#waiting.clear();
    };
    socket.on("end", over);
    socket.on("close", over);
  }

  static async open(path: string): Promise<Link> {
    const socket = connectTo(path);
    await once(socket, "connect");
    return new Link(socket);
  }

  #receive(chunk: Buffer): void {
    this.#pending = this.#pending.length ? Buffer.concat([this.#pending, chunk]) : chunk;
    while (!this.#raw && this.#pending.length >= 16 && this.#pending.length >= 16 + this.#pending.readUInt32LE(0)) {
      const size = this.#pending.readUInt32LE(0),
        id = this.#pending.readUInt32LE(4);
      const name = NAMES.get(this.#pending.readUInt16LE(8));
      assert.ok(name !== undefined);
      const reply = { name, id, fields: decodeFields(MESSAGES[name].fields, this.#pending.subarray(16, 16 + size)) };
      this.#pending = this.#pending.subarray(16 + size);
      const waiting = this.#waiting.get(id);
      if (waiting) {
        this.#waiting.delete(id);
        waiting.resolve(reply);
      } else if (id === 0) {
        this.events.push(reply);
        for (const waiter of this.#eventWaiters.splice(0)) waiter(reply);
      } else this.strays.push(reply);
    }
  }

  get nextId(): number {
    return this.#id + 1;
  }

  send(name: MessageName, values: Values = {}, timeoutMs = 0): number {
    this.socket.write(frame(name, ++this.#id, values, timeoutMs));
    return this.#id;
  }

  call(name: MessageName, values: Values = {}, timeoutMs = 0): Promise<Reply> {
    const id = this.#id + 1;
    const reply = new Promise<Reply>((resolve, reject) => this.#waiting.set(id, { resolve, reject }));
    this.send(name, values, timeoutMs);
    return reply;
  }

  /** Expects success of this kind. */
  async ask(name: MessageName, expected: MessageName, values: Values = {}, timeoutMs = 0): Promise<Decoded> {
    const reply = await this.call(name, values, timeoutMs);
    assert.equal(
      reply.name,
      expected,
      `${reply.name} ${JSON.stringify(reply.fields, (_, v: unknown) => (typeof v === "bigint" ? String(v) : v))}`,
    );
    if (expected === "report") assert.equal(reply.fields["errno"], 0, String(reply.fields["detail"]));
    return reply.fields;
  }

  /** Expects a report with this errno. */
  async refused(errno: number, name: MessageName, values: Values = {}, timeoutMs = 0): Promise<string> {
    const reply = await this.call(name, values, timeoutMs);
    assert.equal(
      reply.name,
      "report",
      JSON.stringify(reply.fields, (_, v: unknown) => (typeof v === "bigint" ? String(v) : v)),
    );
    assert.equal(reply.fields["errno"], errno, String(reply.fields["detail"]));
    return String(reply.fields["detail"]);
  }

  event(): Promise<Reply> {
    const first = this.events.shift();
    if (first) return Promise.resolve(first);
    return new Promise((resolve) =>
      this.#eventWaiters.push((reply) => {
        this.events.shift();
        resolve(reply);
      }),
    );
  }

  /** From here on the socket is the caller's; what has already come behind the last reply is returned. */
  raw(): Buffer {
    this.#raw = true;
    const rest = this.#pending;
    this.#pending = Buffer.alloc(0);
    return rest;
  }

  async end(): Promise<void> {
    if (this.socket.destroyed) return;
    this.socket.destroy();
    await once(this.socket, "close");
  }
}

export interface Serve {
  readonly directory: string;
  readonly socket: string;
  readonly process: ChildProcess;
  readonly stderr: () => string;
  link(): Promise<Link>;
  /** Makes a monitor directory, a container in it, and a connection to its monitor. */
  container(encoded: Buffer, options?: Values): Promise<Container>;
  /** Closes serve's stdin and waits for its end. */
  stop(): Promise<void>;
}

export interface Container {
  readonly dir: string;
  readonly log: string;
  readonly created: Decoded;
  readonly link: Link;
  another(): Promise<Link>;
  record(): Record<string, string>;
  logged(): Buffer;
  /** Resolves once the monitor's process is gone. */
  gone(): Promise<void>;
}

export async function until(what: string, condition: () => boolean, limitMs = 60_000): Promise<void> {
  const start = Date.now();
  while (!condition()) {
    assert.ok(Date.now() - start < limitMs, `timed out waiting until ${what}`);
    await new Promise((resolve) => setTimeout(resolve, 2));
  }
}

export function alive(pid: number): boolean {
  try {
    return !/^\d+ \(.*\) [ZX]/s.test(readFileSync(`/proc/${pid}/stat`, "latin1"));
  } catch {
    return false;
  }
}

export function parseRecord(path: string): Record<string, string> {
  return Object.fromEntries(
    readFileSync(path, "utf8")
      .trimEnd()
      .split("\n")
      .map((line) => {
        const space = line.indexOf(" ");
        return [line.slice(0, space), line.slice(space + 1)];
      }),
  );
}

async function ready(child: ChildProcess): Promise<boolean> {
  let said = "";
  return new Promise((resolve) => {
    child.stdout?.on("data", (chunk: Buffer) => {
      said += String(chunk);
      if (said === "ready\n") resolve(true);
    });
    child.on("exit", () => resolve(false));
  });
}

/** Everything that was made is ended, and found to have ended, after the test. */
export async function serve(t: TestContext, directory = mkdtempSync(join(tmpdir(), "bosun-serve-"))): Promise<Serve> {
  const made = await startServe(directory);
  t.after(async () => {
    await made.stop();
    await endMonitors(directory);
    rmSync(directory, { recursive: true, force: true });
  });
  return made;
}

/** For a serve that the test ends itself: what its monitors leave running is ended after the test. */
export function serveDirectory(t: TestContext): string {
  const directory = mkdtempSync(join(tmpdir(), "bosun-serve-"));
  t.after(async () => {
    await endMonitors(directory);
    rmSync(directory, { recursive: true, force: true });
  });
  return directory;
}

/** Kills what runs in the monitors' directories, by what their records say. */
export async function endMonitors(directory: string): Promise<void> {
  for (const name of readdirSync(directory)) {
    const record = join(directory, name, "record");
    if (!existsSync(record)) continue;
    const { pid, monitor_pid, phase } = parseRecord(record);
    if (phase === "exited" && !alive(Number(monitor_pid))) continue;
    for (const number of [Number(pid), Number(monitor_pid)]) {
      if (number > 0 && alive(number)) process.kill(number, "SIGKILL");
      await until(`${name}'s ${number} is gone`, () => !alive(number));
    }
  }
}

export async function startServe(directory: string, name = "serve.sock"): Promise<Serve> {
  const socket = join(directory, name);
  const child = spawn(bosun, ["serve", socket], {
    stdio: ["pipe", "pipe", "pipe"],
    env: { ...process.env, BOSUN_TEST: directory },
  });
  let stderr = "";
  child.stderr.on("data", (chunk: Buffer) => {
    stderr += String(chunk);
  });
  child.stdin.on("error", () => {});
  const up = await ready(child);
  let count = 0;
  const self: Serve = {
    directory,
    socket,
    process: child,
    stderr: () => stderr,
    async link() {
      const link = await Link.open(socket);
      await link.ask("hello", "welcome", { version: PLAN_VERSION });
      return link;
    },
    async container(encoded, options = {}) {
      const link = await self.link();
      const dir = join(directory, `c${++count}-${child.pid}`);
      const log = join(dir, "log");
      mkdirSync(dir);
      const created = await link.ask("monitor", "created", {
        dir,
        logPath: log,
        maxLine: 16384,
        ...options,
        plan: encoded,
      });
      await link.end();
      return containerAt(dir, String(options["logPath"] ?? log), created);
    },
    async stop() {
      if (child.exitCode !== null || child.signalCode !== null) return;
      child.stdin.end();
      await once(child, "exit");
    },
  };
  if (!up) {
    if (child.exitCode === null && child.signalCode === null) await once(child, "exit");
    throw new Error(`serve did not come up: ${stderr}`);
  }
  return self;
}

export async function containerAt(dir: string, log: string, created: Decoded): Promise<Container> {
  return {
    dir,
    log,
    created,
    link: await Link.open(join(dir, "monitor.sock")),
    another: () => Link.open(join(dir, "monitor.sock")),
    record: () => parseRecord(join(dir, "record")),
    logged: () => readFileSync(log),
    gone: () => until("the monitor is gone", () => !alive(Number(created["monitorPid"]))),
  };
}

/** Starts the container and returns its exit event. */
export async function runToEnd(c: Container): Promise<Record<string, unknown>> {
  const watcher = await c.another();
  await watcher.ask("watch", "state");
  await c.link.ask("start", "state");
  const event = await watcher.event();
  await c.gone();
  return event.fields;
}

/** A container of a serve of its own that runs the script. */
export async function started(t: TestContext, script: string, options: Values = {}): Promise<Container> {
  const c = await (await serve(t)).container(sh(script), options);
  await c.link.ask("start", "state");
  return c;
}

export async function attach(c: Container, session: number, stream: number): Promise<Link> {
  const link = await c.another();
  await link.ask("attach", "report", { session, stream });
  return link;
}

/** Collects a raw stream to its end. */
export async function collect(link: Link): Promise<Buffer> {
  const parts: Buffer[] = [link.raw()];
  link.socket.on("data", (chunk: Buffer) => parts.push(chunk));
  link.socket.resume();
  if (!link.socket.readableEnded) await once(link.socket, "end");
  return Buffer.concat(parts);
}

export function openDescriptors(pid: number): string[] {
  return readdirSync(`/proc/${pid}/fd`).map((fd) => {
    try {
      return readlinkSync(`/proc/${pid}/fd/${fd}`);
    } catch {
      return "";
    }
  });
}

/** The processes that descend from a serve of this directory and have not exec'd: bosun's own. */
export function ownProcesses(directory: string): string[] {
  return readdirSync("/proc").filter((pid) => {
    try {
      return alive(Number(pid)) && readFileSync(`/proc/${pid}/environ`, "latin1").includes(`BOSUN_TEST=${directory}\0`);
    } catch {
      return false;
    }
  });
}
