/**
 * A typed gRPC client of berthd's socket: the CRI's two services and berth's own. Works with any CRI runtime, except for the
 * calls of `berth`.
 */
import {
  create,
  type DescMessage,
  type DescMethod,
  type DescService,
  fromBinary,
  type MessageInitShape,
  type MessageShape,
  toBinary,
} from "@bufbuild/protobuf";
import {
  type CallOptions as GrpcOptions,
  Client as GrpcClient,
  credentials,
  Metadata,
  type ServiceError,
  status,
} from "@grpc/grpc-js";
import { berth, cri } from "@berth/spec";
import { socketPath } from "./address.ts";
import { CallError, unreachable } from "./call-error.ts";

export interface CallOptions {
  readonly signal?: AbortSignal | undefined;
  /** Milliseconds until the call fails with DeadlineExceeded; none without it. */
  readonly timeout?: number | undefined;
}

type Input<M> = M extends { input: infer I extends DescMessage } ? MessageInitShape<I> : never;
type Output<M> = M extends { output: infer O extends DescMessage } ? MessageShape<O> : never;

/** One function per call of a service; a failed call throws (or its iterator throws) a CallError. */
export type ServiceClient<S extends DescService> = {
  readonly [K in keyof S["method"]]: S["method"][K] extends { methodKind: "unary" }
    ? (request: Input<S["method"][K]>, options?: CallOptions) => Promise<Output<S["method"][K]>>
    : S["method"][K] extends { methodKind: "server_streaming" }
      ? (request: Input<S["method"][K]>, options?: CallOptions) => AsyncIterable<Output<S["method"][K]>>
      : (requests: AsyncIterable<Input<S["method"][K]>>, options?: CallOptions) => Promise<Output<S["method"][K]>>;
};

export interface Client extends Disposable {
  readonly runtime: ServiceClient<typeof cri.RuntimeService>;
  readonly images: ServiceClient<typeof cri.ImageService>;
  readonly berth: ServiceClient<typeof berth.Berth>;
  close(): void;
}

/** What one answer may hold: a list of thousands of containers with their annotations. */
const MAX_MESSAGE_BYTES = 64 << 20;

export interface ConnectOptions {
  /** Of each call: what gRPC calls metadata, as in `traceparent`. */
  readonly headers?: Readonly<Record<string, string>>;
}

/** Connects lazily, at the first call. `address` is a socket's absolute path, with or without "unix://". */
export function connect(address: string, { headers = {} }: ConnectOptions = {}): Client {
  const path = socketPath(address);
  const channel = new GrpcClient(`unix:${path}`, credentials.createInsecure(), {
    "grpc.max_receive_message_length": MAX_MESSAGE_BYTES,
    "grpc.max_send_message_length": MAX_MESSAGE_BYTES,
    "grpc.enable_retries": 0,
  });
  const close = (): void => channel.close();
  const wire: Wire = { channel, socket: path, headers };
  return {
    runtime: serviceClient(wire, cri.RuntimeService),
    images: serviceClient(wire, cri.ImageService),
    berth: serviceClient(wire, berth.Berth),
    close,
    [Symbol.dispose]: close,
  };
}

interface Wire {
  readonly channel: GrpcClient;
  readonly socket: string;
  readonly headers: Readonly<Record<string, string>>;
}

function serviceClient<S extends DescService>(wire: Wire, service: S): ServiceClient<S> {
  const calls = service.methods.map((method) => [method.localName, callOf(wire, method)]);
  return Object.fromEntries(calls) as ServiceClient<S>;
}

function callOf({ channel, socket, headers }: Wire, method: DescMethod): unknown {
  const rpc: Rpc = {
    channel,
    metadata: () => Metadata.fromHttp2Headers(headers),
    path: `/${method.parent.typeName}/${method.name}`,
    encode: (init) => Buffer.from(toBinary(method.input, create(method.input, init))),
    decode: (bytes) => fromBinary(method.output, bytes),
    toError: (error) => toCallError(error, socket, method.name),
  };
  switch (method.methodKind) {
    case "unary":
      return (request: MessageInitShape<DescMessage>, options?: CallOptions) => unary(rpc, request, options);
    case "server_streaming":
      return (request: MessageInitShape<DescMessage>, options?: CallOptions) => serverStream(rpc, request, options);
    case "client_streaming":
      return (requests: AsyncIterable<MessageInitShape<DescMessage>>, options?: CallOptions) =>
        clientStream(rpc, requests, options);
    case "bidi_streaming":
      throw new Error(`${method.name}: calls that stream both ways are not used by these services`);
  }
}

interface Rpc {
  readonly channel: GrpcClient;
  /** A new one for each call: gRPC writes into it. */
  readonly metadata: () => Metadata;
  readonly path: string;
  readonly encode: (init: MessageInitShape<DescMessage>) => Buffer;
  readonly decode: (bytes: Buffer) => MessageShape<DescMessage>;
  readonly toError: (error: unknown) => unknown;
}

const deadline = (options: CallOptions | undefined): GrpcOptions =>
  options?.timeout === undefined ? {} : { deadline: Date.now() + options.timeout };

async function unary(
  rpc: Rpc,
  request: MessageInitShape<DescMessage>,
  options?: CallOptions,
): Promise<MessageShape<DescMessage>> {
  options?.signal?.throwIfAborted();
  const { promise, resolve, reject } = Promise.withResolvers<MessageShape<DescMessage>>();
  const call = rpc.channel.makeUnaryRequest(
    rpc.path,
    rpc.encode,
    rpc.decode,
    request,
    rpc.metadata(),
    deadline(options),
    (error, answer) => {
      if (error) reject(rpc.toError(error));
      else resolve(answer as MessageShape<DescMessage>);
    },
  );
  using _ = cancelOn(options?.signal, call);
  return await promise;
}

async function* serverStream(
  rpc: Rpc,
  request: MessageInitShape<DescMessage>,
  options?: CallOptions,
): AsyncGenerator<MessageShape<DescMessage>> {
  options?.signal?.throwIfAborted();
  const call = rpc.channel.makeServerStreamRequest(
    rpc.path,
    rpc.encode,
    rpc.decode,
    request,
    rpc.metadata(),
    deadline(options),
  );
  using _ = cancelOn(options?.signal, call);
  try {
    for await (const message of call) yield message as MessageShape<DescMessage>;
  } catch (error) {
    throw rpc.toError(error);
  } finally {
    // Ends the call of a caller that has read enough.
    call.cancel();
  }
}

async function clientStream(
  rpc: Rpc,
  requests: AsyncIterable<MessageInitShape<DescMessage>>,
  options?: CallOptions,
): Promise<MessageShape<DescMessage>> {
  options?.signal?.throwIfAborted();
  const { promise, resolve, reject } = Promise.withResolvers<MessageShape<DescMessage>>();
  const call = rpc.channel.makeClientStreamRequest(
    rpc.path,
    rpc.encode,
    rpc.decode,
    rpc.metadata(),
    deadline(options),
    (error, answer) => {
      if (error) reject(rpc.toError(error));
      else resolve(answer as MessageShape<DescMessage>);
    },
  );
  // An answer may come before all has been sent, as when the server has failed; sending more would wait for ever.
  let answered = false;
  const settled = promise.then(
    () => void (answered = true),
    () => void (answered = true),
  );
  using _ = cancelOn(options?.signal, call);
  try {
    for await (const request of requests) {
      if (answered) break;
      if (!call.write(request)) await Promise.race([new Promise((drained) => call.once("drain", drained)), settled]);
    }
    call.end();
  } catch (error) {
    call.cancel();
    await settled;
    throw error;
  }
  return await promise;
}

function cancelOn(signal: AbortSignal | undefined, call: { cancel(): void }): Disposable {
  const cancel = (): void => call.cancel();
  signal?.addEventListener("abort", cancel, { once: true });
  return { [Symbol.dispose]: () => signal?.removeEventListener("abort", cancel) };
}

function toCallError(error: unknown, socket: string, call: string): unknown {
  const { code, details } = error as ServiceError;
  if (typeof code !== "number") return error;
  if (code === status.UNAVAILABLE) {
    const failure = unreachable(socket, details);
    if (failure) return failure;
  }
  return new CallError(call, code, status[code] ?? String(code), details);
}
