/**
 * A D-Bus client of what systemd's manager needs: method calls, errors, signals, on a unix socket (D-Bus Specification,
 * "Authentication Protocol" and "Message Protocol").
 */
import type { Socket } from "node:net";
import { connectTo } from "../bosun/client.ts";
import { DBusError, DBusReader, DBusWriter, type DBusValue, type Variant } from "./marshal.ts";

const MESSAGE = { call: 1, reply: 2, error: 3, signal: 4 } as const;
const FIELD = { path: 1, interface: 2, member: 3, error: 4, replySerial: 5, destination: 6, sender: 7, signature: 8 };
const LITTLE_ENDIAN = 0x6c;
const PROTOCOL = 1;
const FIXED_HEADER = 16;
const LARGEST_MESSAGE = 1 << 27;
const DEFAULT_TIMEOUT_MS = 25_000;

export interface DBusMessage {
  readonly type: number;
  readonly path?: string | undefined;
  readonly interface?: string | undefined;
  readonly member?: string | undefined;
  readonly error?: string | undefined;
  readonly replySerial?: number | undefined;
  readonly body: readonly DBusValue[];
}

export interface DBusCall {
  readonly destination: string;
  readonly path: string;
  readonly interface: string;
  readonly member: string;
  readonly signature?: string;
  readonly body?: readonly DBusValue[];
}

/** What the other side answered: `errorName` as in "org.freedesktop.systemd1.UnitExists". */
export class DBusCallError extends DBusError {
  override readonly name = "DBusCallError";
  readonly errorName: string;
  constructor(call: string, errorName: string, message: string) {
    super(`${call}: ${errorName}: ${message}`);
    this.errorName = errorName;
  }
}

/** Nobody is there to answer, or went before he had: the same may be asked again once systemd or the bus is back. */
export class DBusLost extends DBusError {
  override readonly name = "DBusLost";
}

interface Pending {
  readonly what: string;
  readonly settle: (outcome: DBusMessage | Error) => void;
}

export class Bus {
  readonly #socket: Socket;
  readonly #pending = new Map<number, Pending>();
  readonly #listeners = new Set<(signal: DBusMessage) => void>();
  readonly #ended = Promise.withResolvers<Error>();
  #data = Buffer.alloc(0);
  #serial = 0;
  #failure: Error | undefined;

  private constructor(socket: Socket) {
    this.#socket = socket;
  }

  /** `isPrivate`: systemd's own socket, where there is no bus to say hello to. */
  static async connect(path: string, isPrivate = false): Promise<Bus> {
    const socket = await connectTo(path);
    const bus = new Bus(socket);
    try {
      await bus.#authenticate();
    } catch (error) {
      socket.destroy();
      throw error;
    }
    socket.on("data", (chunk: Buffer) => bus.#receive(chunk));
    socket.on("error", (error) => bus.#fail(new DBusLost(`${path}: ${error.message}`, { cause: error })));
    // Half-open is no use here: "close" would come only once this side had ended too.
    for (const event of ["end", "close"])
      socket.on(event, () => bus.#fail(new DBusLost(`${path}: the connection ended`)));
    if (!isPrivate) await bus.call(busCall("Hello"));
    return bus;
  }

  /** Asks the bus for signals that match a rule (org.freedesktop.DBus.AddMatch). */
  async match(rule: string): Promise<void> {
    await this.call({ ...busCall("AddMatch"), signature: "s", body: [rule] });
  }

  onSignal(listener: (signal: DBusMessage) => void): () => void {
    this.#listeners.add(listener);
    return () => this.#listeners.delete(listener);
  }

  /** Why there are no more answers and signals; undefined while there are. */
  get failure(): Error | undefined {
    return this.#failure;
  }

  /** Settles with the reason when there will be no more answers and signals. */
  get ended(): Promise<Error> {
    return this.#ended.promise;
  }

  /** Rejects with DBusCallError for an error reply, DBusLost where the connection ended, DBusError where no answer came. */
  async call(call: DBusCall, timeoutMs = DEFAULT_TIMEOUT_MS): Promise<readonly DBusValue[]> {
    if (this.#failure !== undefined) throw this.#failure;
    const serial = ++this.#serial;
    const what = `${call.interface}.${call.member}`;
    const { promise, resolve, reject } = Promise.withResolvers<DBusMessage>();
    const timer = setTimeout(() => {
      this.#pending.delete(serial);
      reject(new DBusError(`${what}: no answer within ${timeoutMs} ms`));
    }, timeoutMs);
    this.#pending.set(serial, { what, settle: (one) => (one instanceof Error ? reject(one) : resolve(one)) });
    this.#socket.write(encodeCall(serial, call));
    try {
      const answer = await promise;
      if (answer.type === MESSAGE.error) throw callError(what, answer);
      return answer.body;
    } finally {
      clearTimeout(timer);
    }
  }

  close(reason: Error = new DBusError("the connection was closed")): void {
    this.#fail(reason);
  }

  /** EXTERNAL: who we are is what the kernel says of the socket's other end. */
  async #authenticate(): Promise<void> {
    const identity = Buffer.from(String(process.getuid?.() ?? 0)).toString("hex");
    this.#socket.write(`\0AUTH EXTERNAL ${identity}\r\n`);
    const line = await this.#line();
    if (!line.startsWith("OK ")) throw new DBusError(`authentication was refused: ${line}`);
    this.#socket.write("BEGIN\r\n");
  }

  #line(): Promise<string> {
    const { promise, resolve, reject } = Promise.withResolvers<string>();
    const socket = this.#socket;
    const ended = () => done(() => reject(new DBusLost("the connection ended while it was authenticated")));
    const read = (chunk: Buffer) => {
      this.#data = Buffer.concat([this.#data, chunk]);
      const end = this.#data.indexOf("\r\n");
      if (end < 0) return;
      const line = this.#data.toString("latin1", 0, end);
      this.#data = this.#data.subarray(end + 2);
      done(() => resolve(line));
    };
    const done = (settle: () => void) => {
      socket.off("data", read).off("end", ended).off("close", ended).off("error", reject);
      settle();
    };
    socket.on("data", read).on("end", ended).on("close", ended).on("error", reject);
    return promise;
  }

  #receive(chunk: Buffer): void {
    this.#data = Buffer.concat([this.#data, chunk]);
    try {
      for (let size = messageSize(this.#data); size !== undefined && size <= this.#data.length;) {
        const message = decodeMessage(this.#data.subarray(0, size));
        this.#data = this.#data.subarray(size);
        this.#dispatch(message);
        size = messageSize(this.#data);
      }
    } catch (error) {
      this.#fail(error instanceof Error ? error : new DBusError(String(error)));
    }
  }

  #dispatch(message: DBusMessage): void {
    if (message.type === MESSAGE.signal) {
      for (const listener of this.#listeners) listener(message);
      return;
    }
    const pending = this.#pending.get(message.replySerial ?? 0);
    this.#pending.delete(message.replySerial ?? 0);
    pending?.settle(message);
  }

  #fail(error: Error): void {
    if (this.#failure !== undefined) return;
    this.#failure = error;
    this.#socket.destroy();
    const Kind = error instanceof DBusLost ? DBusLost : DBusError;
    for (const { what, settle } of this.#pending.values()) settle(new Kind(`${what}: ${error.message}`));
    this.#pending.clear();
    this.#ended.resolve(error);
  }
}

function busCall(member: string): DBusCall {
  const name = "org.freedesktop.DBus";
  return { destination: name, path: "/org/freedesktop/DBus", interface: name, member };
}

function callError(what: string, answer: DBusMessage): DBusCallError {
  const [text] = answer.body;
  return new DBusCallError(what, answer.error ?? "unknown error", typeof text === "string" ? text : "");
}

function encodeCall(serial: number, call: DBusCall): Buffer {
  const { signature = "", body = [] } = call;
  const text = (signatureOf: string, value: string): Variant => ({ signature: signatureOf, value });
  const fields: [number, Variant][] = [
    [FIELD.path, text("o", call.path)],
    [FIELD.interface, text("s", call.interface)],
    [FIELD.member, text("s", call.member)],
    [FIELD.destination, text("s", call.destination)],
  ];
  if (signature !== "") fields.push([FIELD.signature, text("g", signature)]);
  return encodeMessage(MESSAGE.call, serial, fields, signature, body);
}

/** A whole message; exported for the fake bus of the tests, which answers by it. */
export function encodeMessage(
  type: number,
  serial: number,
  fields: readonly (readonly [number, Variant])[],
  signature: string,
  body: readonly DBusValue[],
): Buffer {
  const content = new DBusWriter();
  content.values(signature, body);
  const writer = new DBusWriter();
  for (const byte of [LITTLE_ENDIAN, type, 0, PROTOCOL]) writer.value("y", byte);
  writer.u32(content.size);
  writer.u32(serial);
  writer.value(
    "a(yv)",
    fields.map(([code, variant]) => [code, variant]),
  );
  writer.align(8);
  writer.raw(content.take());
  return Buffer.from(writer.take());
}

/** Of the message at the buffer's beginning; undefined until enough of it is there to tell. */
export function messageSize(data: Buffer): number | undefined {
  if (data.length < FIXED_HEADER) return undefined;
  if (data[0] !== LITTLE_ENDIAN) throw new DBusError("a message that is not little-endian");
  const size = Math.ceil((FIXED_HEADER + data.readUInt32LE(12)) / 8) * 8 + data.readUInt32LE(4);
  if (size > LARGEST_MESSAGE) throw new DBusError(`a message of ${size} bytes`);
  return size;
}

export function decodeMessage(data: Buffer): DBusMessage & { readonly serial: number } {
  const reader = new DBusReader(data, 12);
  const fields = new Map(
    (reader.value("a(yv)") as [number, Variant][]).map(([code, variant]) => [code, variant.value] as const),
  );
  reader.align(8);
  const text = (code: number) => fields.get(code) as string | undefined;
  return {
    type: data.readUInt8(1),
    serial: data.readUInt32LE(8),
    path: text(FIELD.path),
    interface: text(FIELD.interface),
    member: text(FIELD.member),
    error: text(FIELD.error),
    replySerial: fields.get(FIELD.replySerial) as number | undefined,
    body: reader.values(text(FIELD.signature) ?? ""),
  };
}
