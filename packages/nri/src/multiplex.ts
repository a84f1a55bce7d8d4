/**
 * Several connections over one (NRI, pkg/net/multiplex): u32 number of the connection, u32 length, big-endian, and the bytes. Nothing is
 * said of a connection's begin or end: both sides know their numbers.
 */
import { Duplex } from "node:stream";

export const PLUGIN_SERVICE = 1;
export const RUNTIME_SERVICE = 2;

const HEADER_BYTES = 8;
/** ttRPC's largest frame with its header. */
const MAX_PAYLOAD = 10 + (4 << 20);
/** The size of Go's buffered reader: a plugin in Go takes no larger frame than what it asks to read, and that is at least this. */
const FIRST_PAYLOAD = 4_096;

export class Multiplexer {
  readonly #trunk: Duplex;
  readonly #connections = new Map<number, Connection>();
  readonly #behind = new Set<Connection>();
  readonly #closed = Promise.withResolvers<void>();
  #header = Buffer.alloc(0);
  /** Of the payload that is being read: bytes to come, and for whom. */
  #left = 0;
  #target: Connection | undefined;

  /** Nothing is read before the first connection is opened. */
  constructor(trunk: Duplex) {
    this.#trunk = trunk;
    // What was lost with it is told by the connections' end.
    trunk.on("error", () => undefined);
    trunk.on("close", () => this.#end());
    trunk.on("end", () => this.#end());
    if (trunk.destroyed) this.#end();
  }

  /** Settles when the trunk has gone. */
  get closed(): Promise<void> {
    return this.#closed.promise;
  }

  open(number: number): Duplex {
    const connection = new Connection(
      (chunk, done) => this.#write(number, chunk, done),
      () => this.#resume(connection),
    );
    this.#connections.set(number, connection);
    if (this.#connections.size === 1) this.#trunk.on("data", (chunk: Buffer) => this.#take(chunk));
    return connection;
  }

  close(): void {
    this.#end();
  }

  #end(): void {
    this.#trunk.destroy();
    for (const connection of this.#connections.values()) connection.destroy();
    this.#closed.resolve();
  }

  /** A ttRPC frame's first bytes by themselves: a reader in Go asks for the rest only when it knows how long that is. */
  #write(number: number, chunk: Buffer, done: Done): void {
    this.#trunk.cork();
    const payloads = [chunk.subarray(0, FIRST_PAYLOAD), chunk.subarray(FIRST_PAYLOAD)];
    for (const [index, payload] of payloads.entries()) {
      if (index > 0 && payload.length === 0) continue;
      const header = Buffer.allocUnsafe(HEADER_BYTES);
      header.writeUInt32BE(number, 0);
      header.writeUInt32BE(payload.length, 4);
      this.#trunk.write(header);
      this.#trunk.write(payload, index === 0 && chunk.length > FIRST_PAYLOAD ? undefined : done);
    }
    this.#trunk.uncork();
  }

  #take(chunk: Buffer): void {
    for (let rest = chunk; rest.length > 0;) {
      if (this.#left > 0) {
        const payload = rest.subarray(0, this.#left);
        rest = rest.subarray(payload.length);
        this.#left -= payload.length;
        if (this.#target?.push(payload) === false) this.#pause(this.#target);
        continue;
      }
      const missing = HEADER_BYTES - this.#header.length;
      this.#header = Buffer.concat([this.#header, rest.subarray(0, missing)]);
      rest = rest.subarray(missing);
      if (this.#header.length < HEADER_BYTES) return;
      this.#target = this.#connections.get(this.#header.readUInt32BE(0));
      this.#left = this.#header.readUInt32BE(4);
      this.#header = Buffer.alloc(0);
      // No peer of this protocol writes that: it speaks another.
      if (this.#left > MAX_PAYLOAD) return this.#end();
    }
  }

  #pause(connection: Connection): void {
    this.#behind.add(connection);
    this.#trunk.pause();
  }

  #resume(connection: Connection): void {
    if (this.#behind.delete(connection) && this.#behind.size === 0) this.#trunk.resume();
  }
}

type Done = (error?: Error | null) => void;

class Connection extends Duplex {
  readonly #send: (chunk: Buffer, done: Done) => void;
  readonly #wanted: () => void;

  constructor(send: (chunk: Buffer, done: Done) => void, wanted: () => void) {
    super({ allowHalfOpen: true });
    this.#send = send;
    this.#wanted = wanted;
  }

  override _read(): void {
    this.#wanted();
  }

  override _write(chunk: Buffer, _encoding: BufferEncoding, done: Done): void {
    this.#send(chunk, done);
  }
}
