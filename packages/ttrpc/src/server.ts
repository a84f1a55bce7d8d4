/** A server of ttRPC services on a unix socket. */
import { chmod, rm } from "node:fs/promises";
import { createServer, type Server, type Socket } from "node:net";
import type { Duplex } from "node:stream";
import {
  create,
  type DescMessage,
  type DescMethod,
  type DescMethodBiDiStreaming,
  type DescMethodClientStreaming,
  type DescMethodServerStreaming,
  type DescMethodUnary,
  type DescService,
  fromBinary,
  type MessageInitShape,
  type MessageShape,
  toBinary,
} from "@bufbuild/protobuf";
import { ttrpc } from "@berth/spec/shim";
import type { Metadata } from "./client.ts";
import { FLAG, type Frame, MAX_DATA_BYTES, TYPE } from "./frame.ts";
import { FrameLink } from "./link.ts";
import { MessageQueue } from "./queue.ts";
import { CODE, statusOf, TtrpcError } from "./status.ts";

export interface Call {
  readonly metadata: Metadata;
  /** Aborted at the caller's deadline, and when its connection ends. */
  readonly signal: AbortSignal;
}

type Unary<I extends DescMessage, O extends DescMessage> = (
  request: MessageShape<I>,
  call: Call,
) => Promise<MessageInitShape<O>>;
type Streaming<I extends DescMessage, O extends DescMessage> = (
  requests: AsyncIterable<MessageShape<I>>,
  call: Call,
) => AsyncIterable<MessageInitShape<O>>;
type ClientStreaming<I extends DescMessage, O extends DescMessage> = (
  requests: AsyncIterable<MessageShape<I>>,
  call: Call,
) => Promise<MessageInitShape<O>>;

type Handler<M> =
  M extends DescMethodUnary<infer I, infer O>
    ? Unary<I, O>
    : M extends DescMethodClientStreaming<infer I, infer O>
      ? ClientStreaming<I, O>
      : M extends DescMethodServerStreaming<infer I, infer O>
        ? (request: MessageShape<I>, call: Call) => AsyncIterable<MessageInitShape<O>>
        : M extends DescMethodBiDiStreaming<infer I, infer O>
          ? Streaming<I, O>
          : never;

/** A method that is left out answers Unimplemented. */
export type Handlers<S extends DescService> = { readonly [K in keyof S["method"]]?: Handler<S["method"][K]> };

interface Method {
  readonly desc: DescMethod;
  readonly handler: (request: unknown, call: Call) => unknown;
}

/** ms; a longer timer is a shorter one to Node. */
const LONGEST_TIMER = 0x7fff_ffff;

export class TtrpcServer {
  readonly #methods = new Map<string, Method>();
  readonly #services = new Set<string>();
  readonly #sessions = new Set<Session>();
  #server: Server | undefined;

  add<S extends DescService>(service: S, handlers: Handlers<S>): this {
    this.#services.add(service.typeName);
    for (const desc of service.methods) {
      const handler = (handlers as Record<string, Method["handler"] | undefined>)[desc.localName];
      if (handler) this.#methods.set(`${service.typeName}/${desc.name}`, { desc, handler });
    }
    return this;
  }

  /** Listens on a unix socket of mode 0600. */
  async listen(path: string): Promise<void> {
    await rm(path, { force: true });
    const server = createServer({ allowHalfOpen: true }, (socket) => this.serve(socket));
    const { promise, resolve, reject } = Promise.withResolvers<void>();
    server.once("error", reject).listen({ path }, resolve);
    await promise;
    this.#server = server;
    await chmod(path, 0o600);
  }

  /** As listen(), on a socket that whoever started this process has bound. */
  async adopt(fd: number): Promise<void> {
    const server = createServer({ allowHalfOpen: true }, (socket) => this.serve(socket));
    const { promise, resolve, reject } = Promise.withResolvers<void>();
    server.once("error", reject).listen({ fd }, resolve);
    await promise;
    this.#server = server;
  }

  /** One connection, whatever carries it. */
  serve(connection: Duplex): void {
    const session = new Session(connection, (service, method) => this.#find(service, method));
    this.#sessions.add(session);
    void session.closed.then(() => this.#sessions.delete(session));
  }

  /** Settles when nobody is connected any more and none can connect. Calls under way are aborted. */
  async close(): Promise<void> {
    const closed = Promise.withResolvers<void>();
    if (this.#server) this.#server.close(() => closed.resolve());
    else closed.resolve();
    for (const session of this.#sessions) session.destroy();
    await closed.promise;
  }

  #find(service: string, name: string): Method {
    if (!this.#services.has(service)) throw new TtrpcError(CODE.unimplemented, `service ${service}`);
    const method = this.#methods.get(`${service}/${name}`);
    if (!method) throw new TtrpcError(CODE.unimplemented, `method ${name}`);
    return method;
  }
}

interface Stream {
  /** Of a client's stream: what it sends. */
  readonly input: MessageQueue<unknown> | undefined;
  readonly desc: DescMethod;
}

class Session {
  readonly #link: FrameLink;
  readonly #find: (service: string, method: string) => Method;
  readonly #streams = new Map<number, Stream>();
  readonly #ended = new AbortController();
  #lastStream = 0;

  constructor(connection: Duplex | Socket, find: (service: string, method: string) => Method) {
    this.#find = find;
    this.#link = new FrameLink(connection, (frame) => this.#take(frame));
    void this.#link.closed.then(() => {
      const gone = new TtrpcError(CODE.cancelled, "the caller's connection has ended");
      this.#ended.abort(gone);
      for (const { input } of this.#streams.values()) input?.end(gone);
    });
  }

  get closed(): Promise<unknown> {
    return this.#link.closed;
  }

  destroy(): void {
    this.#link.destroy();
  }

  /** In the words and with the codes of containerd's own server (ttrpc, server.go). */
  #take(frame: Frame): void {
    const { stream, type, tooLong } = frame;
    if (stream % 2 !== 1)
      return this.#refuse(stream, CODE.invalidArgument, "StreamID must be odd for client initiated streams");
    if (tooLong !== undefined) {
      const said = `message length ${tooLong} exceed maximum message size of ${MAX_DATA_BYTES}`;
      return this.#refuse(stream, CODE.resourceExhausted, said);
    }
    if (type === TYPE.data) return this.#feed(frame);
    if (type !== TYPE.request) return;
    if (stream <= this.#lastStream)
      return this.#refuse(stream, CODE.invalidArgument, "StreamID cannot be re-used and must increment");
    this.#lastStream = stream;
    void this.#serve(frame);
  }

  #feed({ stream, flags, data }: Frame): void {
    const open = this.#streams.get(stream);
    if (!open?.input) return this.#refuse(stream, CODE.invalidArgument, "StreamID is no longer active");
    try {
      if ((flags & FLAG.noData) === 0 && open.input.push(fromBinary(open.desc.input, data))) this.#link.unread(1);
    } catch (error) {
      this.#refuse(stream, CODE.invalidArgument, `data handling error: ${(error as Error).message}`);
      return open.input.end(new TtrpcError(CODE.invalidArgument, (error as Error).message));
    }
    if (flags & FLAG.closed) open.input.end();
  }

  async #serve({ stream, flags, data }: Frame): Promise<void> {
    let timer: NodeJS.Timeout | undefined;
    try {
      const request = decoded(data);
      const { desc, handler } = this.#find(request.service, request.method);
      const deadline = new AbortController();
      if (request.timeoutNano > 0n) {
        const late = (): void => deadline.abort(new TtrpcError(CODE.deadlineExceeded, "context deadline exceeded"));
        timer = setTimeout(late, Math.min(Number(request.timeoutNano / 1_000_000n), LONGEST_TIMER));
      }
      const call = {
        metadata: metadataOf(request),
        signal: AbortSignal.any([deadline.signal, this.#ended.signal]),
      };
      const input = this.#input(stream, desc, flags, request.payload);
      const answer = handler(input ?? fromBinary(desc.input, request.payload), call);
      if (desc.methodKind === "unary" || desc.methodKind === "client_streaming")
        await this.#answer(
          stream,
          desc,
          await orAborted(answer as Promise<MessageInitShape<DescMessage>>, call.signal),
        );
      else await this.#answerAll(stream, desc, answer as AsyncIterable<MessageInitShape<DescMessage>>, call.signal);
    } catch (error) {
      const status = statusOf(error);
      this.#refuse(stream, status.code, status.message);
    } finally {
      clearTimeout(timer);
      void this.#streams.get(stream)?.input?.return();
      this.#streams.delete(stream);
    }
  }

  #input(stream: number, desc: DescMethod, flags: number, payload: Uint8Array): MessageQueue<unknown> | undefined {
    if (desc.methodKind !== "client_streaming" && desc.methodKind !== "bidi_streaming") return undefined;
    const input = new MessageQueue<unknown>(() => this.#link.unread(-1));
    this.#streams.set(stream, { input, desc });
    if (payload.length > 0 && input.push(fromBinary(desc.input, payload))) this.#link.unread(1);
    if (flags & FLAG.closed) input.end();
    return input;
  }

  async #answer(stream: number, desc: DescMethod, message: MessageInitShape<DescMessage>): Promise<void> {
    const payload = toBinary(desc.output, create(desc.output, message));
    await this.#respond(stream, { status: { code: CODE.ok }, payload });
  }

  async #answerAll(
    stream: number,
    desc: DescMethod,
    messages: AsyncIterable<MessageInitShape<DescMessage>>,
    signal: AbortSignal,
  ): Promise<void> {
    const iterator = messages[Symbol.asyncIterator]();
    try {
      for (;;) {
        const next = await orAborted(iterator.next(), signal);
        if (next.done) break;
        const data = toBinary(desc.output, create(desc.output, next.value));
        await this.#link.send({ stream, type: TYPE.data, flags: 0, data });
      }
    } catch (error) {
      // Not awaited: a generator that waits for something that never comes is not to hold the answer up.
      iterator.return?.().catch(() => undefined);
      throw error;
    }
    await this.#link.send({ stream, type: TYPE.data, flags: FLAG.closed | FLAG.noData, data: new Uint8Array() });
  }

  #refuse(stream: number, code: number, message: string): void {
    // What is refused to a connection that has gone needs no answer.
    void this.#respond(stream, { status: { code, message } });
  }

  async #respond(stream: number, response: MessageInitShape<typeof ttrpc.ResponseSchema>): Promise<void> {
    const data = toBinary(ttrpc.ResponseSchema, create(ttrpc.ResponseSchema, response));
    if (data.length > MAX_DATA_BYTES)
      throw new TtrpcError(
        CODE.resourceExhausted,
        `message length ${data.length} exceed maximum message size of ${MAX_DATA_BYTES}`,
      );
    await this.#link.send({ stream, type: TYPE.response, flags: 0, data });
  }
}

function decoded(data: Uint8Array): ttrpc.Request {
  try {
    return fromBinary(ttrpc.RequestSchema, data);
  } catch (error) {
    throw new TtrpcError(CODE.invalidArgument, `unmarshal request error: ${(error as Error).message}`);
  }
}

function metadataOf({ metadata }: ttrpc.Request): Metadata {
  const values: Record<string, string[]> = {};
  for (const { key, value } of metadata) (values[key.toLowerCase()] ??= []).push(value);
  return values;
}

async function orAborted<T>(work: Promise<T>, signal: AbortSignal): Promise<T> {
  const { promise, reject } = Promise.withResolvers<never>();
  const aborted = (): void => reject(signal.reason as Error);
  if (signal.aborted) aborted();
  else signal.addEventListener("abort", aborted, { once: true });
  try {
    return await Promise.race([work, promise]);
  } finally {
    signal.removeEventListener("abort", aborted);
    // Whichever came second is nobody's unhandled rejection.
    work.catch(() => undefined);
    promise.catch(() => undefined);
  }
}
