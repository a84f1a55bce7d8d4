/** A client of ttRPC services: many calls at once over one connection. */
import { connect as connectSocket, type Socket } from "node:net";
import type { Duplex } from "node:stream";
import {
  create,
  type DescMessage,
  type DescMethodStreaming,
  type DescMethodUnary,
  fromBinary,
  type MessageInitShape,
  type MessageShape,
  toBinary,
} from "@bufbuild/protobuf";
import { ttrpc } from "@berth/spec/shim";
import { FLAG, type Frame, TYPE } from "./frame.ts";
import { FrameLink } from "./link.ts";
import { MessageQueue } from "./queue.ts";
import { CODE, TtrpcClosed, TtrpcError } from "./status.ts";

/** Values of each key; keys are written in lower case. */
export type Metadata = Readonly<Record<string, readonly string[]>>;

export interface CallOptions {
  /** The caller wants the answer no more. ttRPC cannot tell the server, which goes on. */
  readonly signal?: AbortSignal | undefined;
  /** ms, told to the server too; undefined: none. */
  readonly timeoutMs?: number | undefined;
  readonly metadata?: Metadata | undefined;
}

/** The client's side of a call with streams. */
export interface ClientStream<I extends DescMessage, O extends DescMessage> extends AsyncIterable<MessageShape<O>> {
  send(message: MessageInitShape<I>): Promise<void>;
  /** Nothing more is sent. */
  closeSend(): Promise<void>;
  /** Nothing more is wanted of it. */
  cancel(): void;
}

/** A call under way: what its frames mean. */
interface Pending {
  onData(data: Uint8Array, flags: number): void;
  onResponse(data: Uint8Array): void;
  fail(error: Error): void;
}

const NS_IN_MS = 1_000_000n;
const LAST_STREAM = 0xffff_ffff;
const CONNECT_MS = 10_000;

export class TtrpcClient {
  readonly #link: FrameLink;
  readonly #pending = new Map<number, Pending>();
  #nextStream = 1;
  readonly #what: string;

  /** `what`: in errors, as in "shim /run/x.sock". */
  constructor(connection: Duplex, what: string) {
    this.#what = what;
    this.#link = new FrameLink(connection, (frame) => this.#take(frame));
    void this.#link.closed.then((error) => this.#lose(error));
  }

  /** To a unix socket: a path, or "\0name" of an abstract one. Rejects with connect(2)'s error. */
  static async connect(path: string, timeoutMs = CONNECT_MS): Promise<TtrpcClient> {
    return new TtrpcClient(await connected(path, timeoutMs), `ttrpc ${path.replace("\0", "@")}`);
  }

  /** Settles when the connection has gone. */
  get closed(): Promise<void> {
    return this.#link.closed.then(() => undefined);
  }

  /** Rejects with TtrpcError, or with the signal's reason. */
  async call<I extends DescMessage, O extends DescMessage>(
    method: DescMethodUnary<I, O>,
    request: MessageInitShape<I>,
    options: CallOptions = {},
  ): Promise<MessageShape<O>> {
    const payload = toBinary(method.input, create(method.input, request));
    const { promise, resolve, reject } = Promise.withResolvers<Uint8Array>();
    const stream = this.#open({
      onData: () => reject(new TtrpcError(CODE.internal, `${this.#what}: a stream's data answers a unary call`)),
      onResponse: (data) => this.#settle(data, resolve, reject),
      fail: reject,
    });
    const ends = this.#watch(stream, options, reject);
    try {
      await this.#request(stream, method, 0, options, payload);
      return fromBinary(method.output, await promise);
    } finally {
      ends();
      this.#pending.delete(stream);
    }
  }

  /** Of any kind of streams; of a server's alone, `first` is the request and nothing more is sent. */
  async stream<I extends DescMessage, O extends DescMessage>(
    method: DescMethodStreaming<I, O>,
    options: CallOptions = {},
    first?: MessageInitShape<I>,
  ): Promise<ClientStream<I, O>> {
    const link = this.#link;
    const queue = new MessageQueue<MessageShape<O>>(() => link.unread(-1));
    const streaming = method.methodKind !== "server_streaming";
    const end = (error?: Error): void => {
      ends();
      this.#pending.delete(stream);
      queue.end(error);
    };
    const take = (data: Uint8Array): void => {
      if (queue.push(fromBinary(method.output, data))) link.unread(1);
    };
    const stream = this.#open({
      onData: (data, flags) => {
        if ((flags & FLAG.noData) === 0) take(data);
        if (flags & FLAG.closed) end();
      },
      onResponse: (data) =>
        this.#settle(
          data,
          (payload) => {
            // The one answer to a client's stream.
            if (method.methodKind === "client_streaming" || payload.length > 0) take(payload);
            end();
          },
          end,
        ),
      fail: end,
    });
    const ends = this.#watch(stream, options, end);
    const payload = first === undefined ? undefined : toBinary(method.input, create(method.input, first));
    await this.#request(stream, method, streaming ? FLAG.open : FLAG.closed, options, payload);
    const send = (data: Uint8Array, flags: number): Promise<void> =>
      link.send({ stream, type: TYPE.data, flags, data });
    return {
      send: (message) => send(toBinary(method.input, create(method.input, message)), 0),
      closeSend: () => send(new Uint8Array(), FLAG.closed | FLAG.noData),
      cancel: () => end(new TtrpcError(CODE.cancelled, "the call was cancelled")),
      [Symbol.asyncIterator]: () => queue,
    };
  }

  /** Calls that are under way are rejected. */
  close(): void {
    this.#link.destroy();
  }

  #open(pending: Pending): number {
    if (!this.#link.isOpen) throw new TtrpcClosed(`${this.#what}: the connection has ended`);
    if (this.#nextStream > LAST_STREAM)
      throw new TtrpcError(CODE.resourceExhausted, `${this.#what}: the connection has no stream left; connect again`);
    const stream = this.#nextStream;
    this.#nextStream += 2;
    this.#pending.set(stream, pending);
    return stream;
  }

  async #request(
    stream: number,
    method: DescMethodUnary | DescMethodStreaming,
    flags: number,
    { timeoutMs, metadata = {} }: CallOptions,
    payload: Uint8Array | undefined,
  ): Promise<void> {
    const request = create(ttrpc.RequestSchema, {
      service: method.parent.typeName,
      method: method.name,
      ...(payload && { payload }),
      timeoutNano: timeoutMs === undefined ? 0n : BigInt(Math.max(1, Math.round(timeoutMs))) * NS_IN_MS,
      metadata: Object.entries(metadata).flatMap(([key, values]) =>
        values.map((value) => ({ key: key.toLowerCase(), value })),
      ),
    });
    const data = toBinary(ttrpc.RequestSchema, request);
    try {
      await this.#link.send({ stream, type: TYPE.request, flags, data });
    } catch (error) {
      this.#pending.delete(stream);
      throw error instanceof RangeError ? new TtrpcError(CODE.resourceExhausted, error.message) : error;
    }
  }

  /** Ends the call at its caller's signal or deadline. Returns what stops watching. */
  #watch(stream: number, { signal, timeoutMs }: CallOptions, reject: (error: Error) => void): () => void {
    const give = (error: Error): void => {
      this.#pending.delete(stream);
      reject(error);
    };
    const late = (): void =>
      give(new TtrpcError(CODE.deadlineExceeded, `${this.#what}: no answer within ${timeoutMs} ms`));
    const timer = timeoutMs === undefined ? undefined : setTimeout(late, timeoutMs);
    const aborted = (): void => give(signal?.reason as Error);
    if (signal?.aborted) aborted();
    else signal?.addEventListener("abort", aborted, { once: true });
    return () => {
      clearTimeout(timer);
      signal?.removeEventListener("abort", aborted);
    };
  }

  #settle(data: Uint8Array, resolve: (payload: Uint8Array) => void, reject: (error: Error) => void): void {
    const { status, payload } = fromBinary(ttrpc.ResponseSchema, data);
    if (status && status.code !== CODE.ok) reject(new TtrpcError(status.code, status.message));
    else resolve(payload);
  }

  /** Answers to calls that nobody waits for any more are dropped. */
  #take({ stream, type, flags, data, tooLong }: Frame): void {
    const pending = this.#pending.get(stream);
    if (!pending) return;
    try {
      if (tooLong !== undefined)
        throw new TtrpcError(CODE.resourceExhausted, `${this.#what}: the answer is ${tooLong} bytes long`);
      if (type === TYPE.response) pending.onResponse(data);
      else if (type === TYPE.data) pending.onData(data, flags);
      else throw new TtrpcError(CODE.internal, `${this.#what}: a frame of type ${type} answers a call`);
    } catch (error) {
      this.#pending.delete(stream);
      // What does not decode; the connection itself is sound.
      pending.fail(error instanceof TtrpcError ? error : new TtrpcError(CODE.internal, (error as Error).message));
    }
  }

  #lose(error: Error | undefined): void {
    const reason = error === undefined ? "the connection has ended" : error.message;
    const pending = [...this.#pending.values()];
    this.#pending.clear();
    for (const call of pending) call.fail(new TtrpcClosed(`${this.#what}: ${reason}`));
  }
}

function connected(path: string, timeoutMs: number): Promise<Socket> {
  const { promise, resolve, reject } = Promise.withResolvers<Socket>();
  const socket = connectSocket({ path, allowHalfOpen: true });
  const late = (): void => void socket.destroy(new Error(`connect ${path.replace("\0", "@")}: timed out`));
  const timer = setTimeout(late, timeoutMs);
  const failed = (error: Error): void => {
    clearTimeout(timer);
    reject(error);
  };
  socket.once("error", failed).once("connect", () => {
    clearTimeout(timer);
    socket.off("error", failed);
    resolve(socket);
  });
  return promise;
}
