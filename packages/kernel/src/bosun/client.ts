/** A framed connection to one of bosun's sockets: requests by id, their deadlines and cancellation, and events. */
import { constants as osConstants } from "node:os";
import { open } from "node:fs/promises";
import { connect, type Socket } from "node:net";
import { basename, dirname } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import {
  decodeHeader,
  decodeMessage,
  encodeMessage,
  HEADER_SIZE,
  type AnyMessage,
  type MessageFields,
} from "../orders/encode.ts";
import type { MessageName } from "../orders/messages.ts";
import { expect } from "./answers.ts";
import { OrderError } from "./errors.ts";
import type { CallOptions } from "./hand.ts";
import type { Reach } from "./reach.ts";

/** sizeof(sockaddr_un.sun_path), with its NUL. */
const SOCKET_PATH_ROOM = 108;
/** FRAME_MAX of bosun.h. */
const LARGEST_FRAME = 64 << 20;
/** A machine's bosun answers with less; whoever has broken into it could have this process keep as much for each question. */
const LARGEST_GUEST_FRAME = 8 << 20;
/** More pieces of a frame than these are put together while it comes: a byte at a time would else take a hundred times its size. */
const MOST_PIECES = 16;
export const DEFAULT_TIMEOUT_MS = 120_000;
/** bosun enforces deadlines; this is how much later a call gives up on bosun itself. */
const GRACE_MS = 5_000;
const QUEUE_MS = 10_000;
const QUEUE_RETRY_MS = 5;

interface Pending {
  readonly settle: (outcome: AnyMessage | Error) => void;
}

export class Connection {
  readonly socket: Socket;
  readonly #pending = new Map<number, Pending>();
  readonly #lost: (reason: string) => Error;
  readonly #largest: number;
  readonly #ended = Promise.withResolvers<void>();
  #chunks: Buffer[] = [];
  #buffered = 0;
  #nextId = 1;
  /** The next answer is the last frame; it has been read. */
  #isLast = false;
  #isRaw = false;
  #failure: Error | undefined;
  /** Called for frames that answer nothing (id 0). */
  onEvent: (message: AnyMessage) => void = () => {};

  private constructor(socket: Socket, lost: (reason: string) => Error, largest: number) {
    this.socket = socket;
    this.#lost = lost;
    this.#largest = largest;
    socket.on("data", this.#onData);
    socket.on("error", this.#onError);
    socket.on("close", this.#onClose);
    // What is half-open for streams' sake would otherwise outlive a monitor that was killed.
    socket.on("end", this.#onClose);
    socket.resume(); // it may come paused, from a relay
    if (socket.destroyed) this.#fail(lost(socket.errored?.message ?? "the connection ended"));
  }

  /** `lost` makes the error that pending requests reject with when the connection ends. */
  static async open(path: string, lost: (reason: string) => Error, reach: Reach = connectTo): Promise<Connection> {
    return new Connection(await reach(path), lost, reach === connectTo ? LARGEST_FRAME : LARGEST_GUEST_FRAME);
  }

  /** Resolves when the connection has ended, for whatever reason. */
  get ended(): Promise<void> {
    return this.#ended.promise;
  }

  get isOpen(): boolean {
    return this.#failure === undefined;
  }

  /**
   * Sends a request and resolves with its answer, whatever message that is. On abort the work is cancelled, and once bosun
   * has ended it the call rejects with the signal's reason.
   */
  async request<N extends MessageName>(
    name: N,
    fields: MessageFields<N>,
    options: CallOptions = {},
  ): Promise<AnyMessage> {
    const { signal, timeoutMs = DEFAULT_TIMEOUT_MS } = options;
    signal?.throwIfAborted();
    if (this.#failure !== undefined) throw this.#failure;
    const id = this.#takeId();
    const frame = encodeMessage(name, id, timeoutMs, fields);
    const { promise, resolve, reject } = Promise.withResolvers<AnyMessage>();
    this.#pending.set(id, { settle: (outcome) => (outcome instanceof Error ? reject(outcome) : resolve(outcome)) });
    const cancel = () => this.#cancel(id, name, signal?.reason);
    signal?.addEventListener("abort", cancel, { once: true });
    const giveUp =
      timeoutMs === 0 ? undefined : setTimeout(() => this.#abandon(id, timedOut(name)), timeoutMs + GRACE_MS);
    this.socket.write(frame);
    try {
      const answer = await promise;
      if (signal?.aborted && answer.name === "report" && answer.fields.errno !== 0) throw signal.reason;
      return answer;
    } finally {
      clearTimeout(giveUp);
      signal?.removeEventListener("abort", cancel);
      this.#pending.delete(id);
    }
  }

  /**
   * A request whose answer is the last frame: what follows it is a stream's bytes, and they may come with it. Resolves with the socket;
   * where the request fails the connection is closed.
   */
  async takeOver<N extends MessageName>(
    name: N,
    fields: MessageFields<N>,
    what: string,
    options?: CallOptions,
  ): Promise<Socket> {
    this.#isLast = true;
    try {
      expect(await this.request(name, fields, options), "report", what);
    } catch (error) {
      this.close();
      throw error;
    }
    return this.#detach();
  }

  /** Bytes that came behind the last answer are put back, and no frame is read any more. */
  #detach(): Socket {
    const { socket } = this;
    socket.pause();
    socket.off("data", this.#onData);
    socket.off("error", this.#onError);
    socket.off("close", this.#onClose);
    socket.off("end", this.#onClose);
    this.#failure = this.#lost("the connection was handed over");
    if (this.#buffered > 0) socket.unshift(Buffer.concat(this.#chunks));
    this.#chunks = [];
    this.#buffered = 0;
    this.#ended.resolve();
    return socket;
  }

  /** `reason` is what requests that still wait are told. */
  close(reason = "it was closed"): void {
    this.#fail(this.#lost(reason));
  }

  #takeId(): number {
    const id = this.#nextId;
    this.#nextId = id === 0xffff_fffe ? 1 : id + 1;
    return this.#pending.has(id) ? this.#takeId() : id;
  }

  #cancel(id: number, name: MessageName, reason: unknown): void {
    if (!this.#pending.has(id) || this.#failure !== undefined) return;
    this.socket.write(encodeMessage("cancel", this.#takeId(), 0, { id }));
    const timer = setTimeout(() => this.#abandon(id, reason instanceof Error ? reason : timedOut(name)), GRACE_MS);
    timer.unref();
  }

  #abandon(id: number, error: Error): void {
    this.#pending.get(id)?.settle(error);
  }

  readonly #onData = (chunk: Buffer): void => {
    this.#chunks.push(chunk);
    this.#buffered += chunk.length;
    this.#join();
    try {
      while (this.#readFrame());
    } catch (error) {
      this.#fail(
        this.#lost(`it sent what cannot be understood: ${error instanceof Error ? error.message : String(error)}`),
      );
    }
  };

  /** The last pieces, as long as they are no smaller than the one before: each byte is moved a few times, however it came. */
  #join(): void {
    const pieces = this.#chunks;
    while (pieces.length > MOST_PIECES) {
      const [before, last] = pieces.slice(-2);
      if (!before || !last || last.length < before.length) return;
      pieces.splice(-2, 2, Buffer.concat([before, last]));
    }
  }

  /** Takes one frame off the buffered chunks, without joining them before a frame is whole. */
  #readFrame(): boolean {
    if (this.#failure !== undefined || this.#isRaw || this.#buffered < HEADER_SIZE) return false;
    if ((this.#chunks[0]?.length ?? 0) < HEADER_SIZE) this.#chunks = [Buffer.concat(this.#chunks)];
    const first = this.#chunks[0];
    if (first === undefined) return false;
    const header = decodeHeader(first);
    if (header.size > this.#largest) throw new Error(`a frame of ${header.size} bytes`);
    const size = HEADER_SIZE + header.size;
    if (this.#buffered < size) return false;
    const all = this.#chunks.length === 1 ? first : Buffer.concat(this.#chunks);
    this.#chunks = all.length === size ? [] : [all.subarray(size)];
    this.#buffered = all.length - size;
    this.#dispatch(header.id, decodeMessage(header.type, all.subarray(HEADER_SIZE, size)));
    return true;
  }

  #dispatch(id: number, message: AnyMessage): void {
    const pending = this.#pending.get(id);
    if (pending !== undefined) {
      this.#pending.delete(id);
      this.#isRaw = this.#isLast;
      pending.settle(message);
    } else if (id === 0) this.onEvent(message);
  }

  readonly #onError = (error: Error): void => this.#fail(this.#lost(error.message));
  readonly #onClose = (): void => this.#fail(this.#lost("the connection ended"));

  #fail(error: Error): void {
    if (this.#failure !== undefined) return;
    this.#failure = error;
    this.socket.destroy();
    const pending = [...this.#pending.values()];
    this.#pending.clear();
    for (const { settle } of pending) settle(error);
    this.#ended.resolve();
  }
}

/** Connects to a unix socket; a path too long for sockaddr_un goes through a descriptor of its directory. */
export async function connectTo(path: string): Promise<Socket> {
  if (Buffer.byteLength(path) < SOCKET_PATH_ROOM) return await connected(path);
  const directory = await open(dirname(path), "r");
  try {
    return await connected(`/proc/self/fd/${directory.fd}/${basename(path)}`);
  } finally {
    await directory.close();
  }
}

/** A listener whose queue is full (many streams of one container at once) says EAGAIN, and nothing tells when it has room. */
async function connected(path: string): Promise<Socket> {
  for (const end = Date.now() + QUEUE_MS; ;) {
    try {
      return await connectOnce(path);
    } catch (error) {
      if ((error as NodeJS.ErrnoException).code !== "EAGAIN" || Date.now() > end) throw error;
    }
    await sleep(QUEUE_RETRY_MS);
  }
}

function connectOnce(path: string): Promise<Socket> {
  const { promise, resolve, reject } = Promise.withResolvers<Socket>();
  const socket = connect({ path, allowHalfOpen: true });
  // Kept for good: whoever is killed in the moment before the socket has its owner must not end this process. The owner finds
  // the socket destroyed, with its `errored`.
  socket.on("error", reject);
  socket.once("connect", () => resolve(socket));
  return promise;
}

function timedOut(what: string): OrderError {
  const errno = osConstants.errno.ETIMEDOUT;
  const detail = "bosun did not answer";
  return new OrderError(`${what}: ETIMEDOUT: ${detail}`, {
    code: "ETIMEDOUT",
    errno,
    order: undefined,
    orderName: undefined,
    because: undefined,
    where: "stage",
    detail,
  });
}
