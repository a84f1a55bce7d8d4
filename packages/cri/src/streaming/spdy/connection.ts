/**
 * One side of a SPDY/3.1 connection over any byte stream: TCP, TLS, or a WebSocket that tunnels it.
 *
 * The other sides (Kubernetes' all use one library) neither keep to windows nor ever enlarge one. So windows are honoured once a
 * peer has named its own in SETTINGS, as one must that keeps to them: were only one direction held to them, updates could be stuck
 * behind data that nobody takes. With the others TCP alone slows a sender, and a stream whose reader is behind by more than its
 * buffer holds up the connection.
 */
import type { Duplex } from "node:stream";
import { type ControlFrame, control, dataHeader, field, FIN, FrameError, FrameReader, GOAWAY } from "./frames.ts";
import { INITIAL_WINDOW, RST, SETTING_INITIAL_WINDOW, TYPE } from "./frames.ts";
import { HeaderError, HeaderInflater, HeaderWriter, type Headers } from "./headers.ts";
import { SpdyStream, type StreamOwner } from "./stream.ts";

const MOST_STREAMS = 1000;
/** Bytes in one DATA frame; the format's own limit is 16 MB. */
const MOST_DATA = 64 << 10;
const SETTINGS_LIMIT = 100;
/** ms; how long after GOAWAY the client may take to close the connection before it is cut. */
const LINGER_MS = 10_000;
/** ms; while nothing is read from a client, only writing to it can tell that it has gone. */
const PROBE_MS = 2_000;
const NO_HEADERS: Headers = new Map();

export interface SpdyOptions {
  /** Whose streams and pings have odd numbers. Default: the server. */
  readonly role?: "server" | "client";
  /** The other side's new stream; false refuses it. */
  readonly onStream?: (stream: SpdyStream) => boolean;
  /** Streams that the other side resets have ended, with all that came before: Kubernetes' servers end so what they are done with. */
  readonly resetEnds?: boolean;
  /** Called with each frame, either way. */
  readonly onActivity?: () => void;
}

interface Blocked {
  readonly stream: SpdyStream;
  readonly bytes: Buffer;
  readonly done: (error?: Error | null) => void;
}

export class SpdyConnection implements StreamOwner {
  readonly #socket: Duplex;
  readonly #onStream: (stream: SpdyStream) => boolean;
  readonly #onActivity: () => void;
  readonly #resetEnds: boolean;
  readonly #parity: 0 | 1;
  readonly #reader = new FrameReader();
  readonly #inflater = new HeaderInflater();
  readonly #writer = new HeaderWriter();
  readonly #streams = new Map<number, SpdyStream>();
  readonly #full = new Set<SpdyStream>();
  readonly #closed = Promise.withResolvers<void>();
  #room = Promise.withResolvers<void>();
  #lastStream = 0;
  #nextStream: number;
  #closing = false;
  #windows = false;
  #initialWindow = INITIAL_WINDOW;
  #sessionWindow = INITIAL_WINDOW;
  #taken = 0;
  #blocked: Blocked[] = [];
  /** The other side's new stream: what is sent on it must follow the answer. */
  #unanswered: SpdyStream | undefined;
  readonly #deferred: (() => void)[] = [];
  #pings: number;
  readonly #opening = new Map<number, PromiseWithResolvers<SpdyStream>>();

  constructor(socket: Duplex, options: SpdyOptions) {
    this.#socket = socket;
    this.#onStream = options.onStream ?? (() => false);
    this.#onActivity = options.onActivity ?? (() => undefined);
    this.#resetEnds = options.resetEnds ?? false;
    this.#parity = options.role === "client" ? 1 : 0;
    this.#nextStream = this.#pings = 2 - this.#parity;
    socket.on("error", () => socket.destroy());
    socket.on("close", () => this.#ended());
    void this.#run();
  }

  /** Settles when the client has gone, or the connection has been closed here. */
  get closed(): Promise<void> {
    return this.#closed.promise;
  }

  /** A new stream, when the other side has accepted it: some read nothing that comes before their answer. */
  open(headers: Headers): Promise<SpdyStream> {
    const opening = Promise.withResolvers<SpdyStream>();
    const id = this.#nextStream;
    this.#nextStream += 2;
    if (this.#closing || !this.#socket.writable) opening.reject(new Error("the connection is closed"));
    else {
      this.#opening.set(id, opening);
      this.#write(control(TYPE.synStream, 0, [id, 0], Buffer.concat([Buffer.alloc(2), this.#writer.write(headers)])));
    }
    return opening.promise;
  }

  /** Resets what has not been ended, lets the rest be read to its end, says goodbye, and closes. */
  async close(): Promise<void> {
    if (this.#closing) return;
    this.#closing = true;
    const streams = [...this.#streams.values()];
    for (const stream of streams) if (!stream.writableEnded) stream.destroy();
    await Promise.race([Promise.all(streams.map(flushed)), this.#closed.promise]);
    this.#write(control(TYPE.goAway, 0, [this.#lastStream, GOAWAY.ok]));
    // The client closes first: a socket closed here with something unread would take what is on its way to the client with it.
    this.#socket.end();
    const timer = setTimeout(() => this.#socket.destroy(), LINGER_MS);
    await this.#closed.promise;
    clearTimeout(timer);
  }

  destroy(): void {
    this.#socket.destroy();
  }

  async #run(): Promise<void> {
    try {
      for await (const chunk of this.#socket.iterator({ destroyOnReturn: false }) as AsyncIterable<Buffer>) {
        this.#onActivity();
        this.#reader.push(chunk);
        for (let frame = this.#reader.next(); frame; frame = this.#reader.next()) {
          if (frame.kind === "control") await this.#control(frame);
          else this.#data(frame.stream, frame.bytes, frame.fin);
        }
        if (this.#full.size > 0) await this.#untilRoom();
      }
    } catch (error) {
      if (error instanceof FrameError || error instanceof HeaderError) return this.#violated();
    }
    this.#socket.destroy();
  }

  /** Nothing more that comes can be understood. */
  #violated(): void {
    this.#socket.end(control(TYPE.goAway, 0, [this.#lastStream, GOAWAY.protocolError]), () => this.#socket.destroy());
  }

  async #untilRoom(): Promise<void> {
    this.#room = Promise.withResolvers<void>();
    const probe = setInterval(() => this.#ping(), PROBE_MS);
    await Promise.race([this.#room.promise, this.#closed.promise]);
    clearInterval(probe);
  }

  #ping(): void {
    this.#socket.write(control(TYPE.ping, 0, [this.#pings]));
    this.#pings = (this.#pings + 2) & 0x7fff_ffff || 2;
  }

  #ended(): void {
    this.#closed.resolve();
    this.#inflater.close();
    for (const stream of this.#streams.values()) stream.abandon(gone(), LINGER_MS);
    for (const { reject } of this.#opening.values()) reject(gone());
    for (const { done } of this.#blocked.splice(0)) done(gone());
  }

  #write(bytes: Buffer): void {
    this.#onActivity();
    if (this.#socket.writable) this.#socket.write(bytes);
  }

  // --- what comes in ------------------------------------------------------------------------------------------------

  #data(id: number, bytes: Buffer, fin: boolean): void {
    const stream = this.#streams.get(id);
    if (!stream) {
      this.#credit(bytes.length);
      return;
    }
    if (!stream.receive(bytes)) this.#full.add(stream);
    if (fin) stream.receiveFin();
  }

  async #control(frame: ControlFrame): Promise<void> {
    switch (frame.type) {
      case TYPE.synStream:
        return this.#synStream(
          field(frame, 0),
          (frame.flags & FIN) !== 0,
          await this.#inflater.read(frame.body.subarray(10)),
        );
      case TYPE.synReply:
        return this.#synReply(field(frame, 0), await this.#inflater.read(frame.body.subarray(4)));
      case TYPE.headers:
        // Of no use here, but the zlib stream goes on through them.
        return void (await this.#inflater.read(frame.body.subarray(4)));
      case TYPE.rstStream:
        return this.#rstStream(field(frame, 0), field(frame, 4));
      case TYPE.ping:
        if (field(frame, 0) % 2 !== this.#parity) this.#write(control(TYPE.ping, 0, [frame.body.readUInt32BE(0)]));
        return;
      case TYPE.settings:
        return this.#settings(frame);
      case TYPE.windowUpdate:
        return this.#windowUpdate(field(frame, 0), field(frame, 4));
      case TYPE.goAway:
        return this.#goneAway();
      default: // The draft: unknown control frames are to be ignored.
    }
  }

  #synStream(id: number, fin: boolean, headers: Headers): void {
    if (id % 2 === this.#parity || id <= this.#lastStream)
      return this.#write(control(TYPE.rstStream, 0, [id, RST.protocolError]));
    this.#lastStream = id;
    if (this.#closing || this.#streams.size >= MOST_STREAMS)
      return this.#write(control(TYPE.rstStream, 0, [id, RST.refusedStream]));
    const stream = new SpdyStream(this, id, headers, this.#initialWindow);
    this.#streams.set(id, stream);
    this.#unanswered = stream;
    const accepted = this.#onStream(stream);
    this.#unanswered = undefined;
    if (!accepted) {
      this.#deferred.length = 0;
      this.#forget(id);
      stream.destroy();
      return this.#write(control(TYPE.rstStream, 0, [id, RST.refusedStream]));
    }
    this.#write(control(TYPE.synReply, 0, [id], this.#writer.write(NO_HEADERS)));
    for (const send of this.#deferred.splice(0)) send();
    if (fin) stream.receiveFin();
  }

  #synReply(id: number, headers: Headers): void {
    const opening = this.#opening.get(id);
    if (!opening) return;
    this.#opening.delete(id);
    const stream = new SpdyStream(this, id, headers, this.#initialWindow);
    this.#streams.set(id, stream);
    opening.resolve(stream);
  }

  #rstStream(id: number, status: number): void {
    this.#opening.get(id)?.reject(new Error(`the stream was refused (status ${status})`));
    this.#opening.delete(id);
    const stream = this.#forget(id);
    if (!this.#resetEnds) return void stream?.destroy();
    stream?.receiveFin();
    stream?.abandon(gone(), LINGER_MS);
  }

  #settings(frame: ControlFrame): void {
    const count = Math.min(field(frame, 0), SETTINGS_LIMIT);
    for (let index = 0; index < count; index++) {
      const at = 4 + index * 8;
      if ((field(frame, at) & 0xff_ffff) !== SETTING_INITIAL_WINDOW) continue;
      this.#windows = true;
      const change = field(frame, at + 4) - this.#initialWindow;
      this.#initialWindow += change;
      for (const stream of this.#streams.values()) stream.sendWindow += change;
    }
    this.#unblock();
  }

  /** Stream 0 is the session's window (3.1's addition). */
  #windowUpdate(id: number, delta: number): void {
    const stream = this.#streams.get(id);
    if (id === 0) this.#sessionWindow += delta;
    else if (stream) stream.sendWindow += delta;
    this.#unblock();
  }

  /** The other side makes no more streams; it closes the connection when those that it has are done. */
  #goneAway(): void {
    if (this.#streams.size === 0) this.#socket.end();
  }

  // --- what goes out (StreamOwner) ------------------------------------------------------------------------------------

  send(stream: SpdyStream, bytes: Buffer, done: (error?: Error | null) => void): void {
    if (stream === this.#unanswered) return void this.#deferred.push(() => this.send(stream, bytes, done));
    if (!this.#socket.writable) return done(gone());
    const room = this.#windows ? Math.min(stream.sendWindow, this.#sessionWindow, MOST_DATA) : MOST_DATA;
    if (room <= 0) return void this.#blocked.push({ stream, bytes, done });
    const part = bytes.subarray(0, room);
    stream.sendWindow -= part.length;
    this.#sessionWindow -= part.length;
    this.#onActivity();
    const rest = bytes.subarray(part.length);
    const next =
      rest.length === 0 ? done : (error?: Error | null) => (error ? done(error) : this.send(stream, rest, done));
    this.#socket.cork();
    this.#socket.write(dataHeader(stream.id, part.length, false));
    this.#socket.write(part, next);
    this.#socket.uncork();
  }

  sendFin(stream: SpdyStream, done: (error?: Error | null) => void): void {
    if (stream === this.#unanswered) return void this.#deferred.push(() => this.sendFin(stream, done));
    this.#write(dataHeader(stream.id, 0, true));
    done();
  }

  taken(stream: SpdyStream, bytes: number, resumed: boolean): void {
    if (this.#streams.has(stream.id) && this.#socket.writable)
      this.#socket.write(control(TYPE.windowUpdate, 0, [stream.id, bytes]));
    this.#credit(bytes);
    if (resumed) this.#hasRoom(stream);
  }

  gone(stream: SpdyStream, reset: boolean): void {
    const known = this.#forget(stream.id) !== undefined;
    if (known && reset) this.#write(control(TYPE.rstStream, 0, [stream.id, RST.cancel]));
    for (const blocked of this.#blocked.filter((one) => one.stream === stream))
      blocked.done(new Error("the stream has gone"));
    this.#blocked = this.#blocked.filter((one) => one.stream !== stream);
    this.#hasRoom(stream);
  }

  #forget(id: number): SpdyStream | undefined {
    const stream = this.#streams.get(id);
    this.#streams.delete(id);
    return stream;
  }

  #hasRoom(stream: SpdyStream): void {
    if (this.#full.delete(stream) && this.#full.size === 0) this.#room.resolve();
  }

  #unblock(): void {
    for (const { stream, bytes, done } of this.#blocked.splice(0)) this.send(stream, bytes, done);
  }

  /** Gives the session's window back, half of it at a time. */
  #credit(bytes: number): void {
    this.#taken += bytes;
    if (this.#taken < INITIAL_WINDOW / 2 || !this.#socket.writable) return;
    this.#socket.write(control(TYPE.windowUpdate, 0, [0, this.#taken]));
    this.#taken = 0;
  }
}

const gone = (): Error => new Error("the other side has gone");

function flushed(stream: SpdyStream): Promise<void> {
  const { promise, resolve } = Promise.withResolvers<void>();
  if (stream.writableFinished || stream.destroyed) resolve();
  stream.once("finish", resolve).once("close", resolve);
  return promise;
}
