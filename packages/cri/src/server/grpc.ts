/** gRPC services on grpc-js from @bufbuild descriptors: codec, cancellation, and errors mapped to status codes at this edge only. */
import type { DescMessage, DescMethod, DescService, MessageShape } from "@bufbuild/protobuf";
import { fromBinary, toBinary } from "@bufbuild/protobuf";
import type {
  handleServerStreamingCall,
  handleUnaryCall,
  MethodDefinition,
  Server,
  ServerReadableStream,
  ServerUnaryCall,
  ServerWritableStream,
  UntypedHandleCall,
} from "@grpc/grpc-js";
import { Metadata, status } from "@grpc/grpc-js";
import { toStatus } from "../errors.ts";
import type { Log } from "../log.ts";
import type { CallWatch } from "../telemetry/telemetry.ts";
import { Encoded } from "./encoded.ts";

type Method<S extends DescService, K extends keyof S["method"]> = S["method"][K];
type Input<M> = M extends { input: infer I extends DescMessage } ? MessageShape<I> : never;
type Output<M> = M extends { output: infer O extends DescMessage } ? MessageShape<O> : never;

/** Yields to the client as it goes; returning ends the stream. */
export type Send<T> = (message: T) => Promise<void>;

/** One handler for each call of a service that is served; a call without one answers Unimplemented with its name. */
export type Handlers<S extends DescService> = {
  readonly [K in keyof S["method"]]?: Method<S, K> extends { methodKind: "unary" }
    ? (request: Input<Method<S, K>>, signal: AbortSignal) => Promise<Output<Method<S, K>> | Encoded>
    : Method<S, K> extends { methodKind: "server_streaming" }
      ? (request: Input<Method<S, K>>, signal: AbortSignal, send: Send<Output<Method<S, K>> | Encoded>) => Promise<void>
      : (requests: AsyncIterable<Input<Method<S, K>>>, signal: AbortSignal) => Promise<Output<Method<S, K>>>;
};

type AnyHandler = (request: unknown, signal: AbortSignal, send?: Send<unknown>) => Promise<unknown>;
type Call = Pick<ServerUnaryCall<unknown, unknown>, "on" | "getDeadline" | "cancelled" | "metadata">;

/** Is told of every call. */
export type Observe = (service: string, method: string, metadata: Metadata, request: unknown) => CallWatch;

export function addService<S extends DescService>(
  server: Server,
  service: S,
  handlers: Handlers<S>,
  log: Log,
  observe: Observe,
): void {
  const definition: Record<string, MethodDefinition<unknown, unknown>> = {};
  const implementation: Record<string, UntypedHandleCall> = {};
  for (const method of service.methods) {
    definition[method.localName] = {
      path: `/${service.typeName}/${method.name}`,
      requestStream: method.methodKind === "client_streaming",
      responseStream: method.methodKind === "server_streaming",
      requestSerialize: (message) => bufferOver(toBinary(method.input, message as MessageShape<DescMessage>)),
      requestDeserialize: (bytes) => fromBinary(method.input, bytes),
      responseSerialize: (answer) =>
        answer instanceof Encoded
          ? answer.bytes
          : bufferOver(toBinary(method.output, answer as MessageShape<DescMessage>)),
      responseDeserialize: (bytes) => fromBinary(method.output, bytes),
    };
    const handler =
      (handlers as Record<string, AnyHandler | undefined>)[method.localName] ?? unimplementedCall(method.name);
    implementation[method.localName] = serve(service.typeName, method, handler, { log, observe });
  }
  server.addService(definition, implementation);
}

/** The same memory: nobody else holds what toBinary has made. */
const bufferOver = ({ buffer, byteOffset, byteLength }: Uint8Array): Buffer =>
  Buffer.from(buffer, byteOffset, byteLength);

function unimplementedCall(name: string): AnyHandler {
  return () =>
    Promise.reject(Object.assign(new UnimplementedCall(`${name} is not implemented by this version of berth`)));
}
class UnimplementedCall extends Error {}

interface Watch {
  readonly log: Log;
  readonly observe: Observe;
}

function serve(service: string, method: DescMethod, handler: AnyHandler, { log, observe }: Watch): UntypedHandleCall {
  const { name, methodKind: kind } = method;
  /** Runs the handler under the watch. */
  const handled = async (call: Call, request: unknown, send?: Send<unknown>): Promise<Outcome> => {
    const watch = observe(service, name, call.metadata, request);
    const progress = { answered: false };
    // A tenth of a short call is its signal: a handler that takes none gets none.
    const signal = handler.length > 1 ? signalOf(call, progress) : NEVER;
    try {
      const answer = await watch.run(() => handler(request, signal, send));
      watch.ended(status.OK, "");
      return { answer };
    } catch (error) {
      const failure = toServiceError(name, error, log);
      watch.ended(failure.code, failure.details);
      return { failure };
    } finally {
      progress.answered = true;
    }
  };
  if (kind === "server_streaming") {
    const stream: handleServerStreamingCall<unknown, unknown> = (call) => {
      void handled(call, call.request, (message: unknown) => write(call, message)).then(({ failure }) => {
        // grpc-js sends the status of an "error" event; destroying the stream would send none.
        if (failure) call.emit("error", failure);
        else call.end();
      });
    };
    return stream as UntypedHandleCall;
  }
  const unary: handleUnaryCall<unknown, unknown> = (call, callback) => {
    const request =
      kind === "client_streaming" ? (call as unknown as ServerReadableStream<unknown, unknown>) : call.request;
    void handled(call, request).then(({ answer, failure }) => (failure ? callback(failure) : callback(null, answer)));
  };
  return unary as UntypedHandleCall;
}

/** Of a handler that does not look. */
const NEVER = new AbortController().signal;

interface Outcome {
  readonly answer?: unknown;
  readonly failure?: ReturnType<typeof toServiceError>;
}

function toServiceError(name: string, error: unknown, log: Log) {
  if (error instanceof UnimplementedCall)
    return { code: status.UNIMPLEMENTED, details: error.message, metadata: new Metadata() };
  const { code, details } = toStatus(error);
  log.warn({ call: name, code: status[code], err: error }, details);
  return { code, details, metadata: new Metadata() };
}

/** A signal that aborts when the client cancels, disconnects, or its deadline passes, before the call has been answered. */
function signalOf(call: Call, progress: { readonly answered: boolean }): AbortSignal {
  const controller = new AbortController();
  call.on("cancelled", () => {
    // grpc-js says it of every call, when its stream closes.
    if (progress.answered) return;
    const deadline = call.getDeadline();
    const expired = deadline !== Infinity && Number(deadline) <= Date.now();
    controller.abort(
      new DOMException(
        expired ? "the caller's deadline has passed" : "the caller cancelled the call",
        expired ? "TimeoutError" : "AbortError",
      ),
    );
  });
  return controller.signal;
}

function write(call: ServerWritableStream<unknown, unknown>, message: unknown): Promise<void> {
  if (call.write(message)) return Promise.resolve();
  const { promise, resolve, reject } = Promise.withResolvers<void>();
  call.once("drain", resolve);
  call.once("cancelled", () => reject(new DOMException("the caller cancelled the call", "AbortError")));
  return promise;
}
