/** gRPC services on grpc-js from @bufbuild descriptors: codec, cancellation, and errors mapped to status codes at this edge only. */
import type { DescMessage, DescService, MessageShape } from "@bufbuild/protobuf";
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

type Method<S extends DescService, K extends keyof S["method"]> = S["method"][K];
type Input<M> = M extends { input: infer I extends DescMessage } ? MessageShape<I> : never;
type Output<M> = M extends { output: infer O extends DescMessage } ? MessageShape<O> : never;

/** Yields to the client as it goes; returning ends the stream. */
export type Send<T> = (message: T) => Promise<void>;

/** One handler for each call of a service that is served; a call without one answers Unimplemented with its name. */
export type Handlers<S extends DescService> = {
  readonly [K in keyof S["method"]]?: Method<S, K> extends { methodKind: "unary" }
    ? (request: Input<Method<S, K>>, signal: AbortSignal) => Promise<Output<Method<S, K>>>
    : Method<S, K> extends { methodKind: "server_streaming" }
      ? (request: Input<Method<S, K>>, signal: AbortSignal, send: Send<Output<Method<S, K>>>) => Promise<void>
      : (requests: AsyncIterable<Input<Method<S, K>>>, signal: AbortSignal) => Promise<Output<Method<S, K>>>;
};

type AnyHandler = (request: unknown, signal: AbortSignal, send?: Send<unknown>) => Promise<unknown>;
type Call = Pick<ServerUnaryCall<unknown, unknown>, "on" | "getDeadline" | "cancelled">;

/** How long a call took, and how it ended. */
export type Observe = (method: string, code: status, milliseconds: number) => void;

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
      requestSerialize: (message) => Buffer.from(toBinary(method.input, message as MessageShape<DescMessage>)),
      requestDeserialize: (bytes) => fromBinary(method.input, bytes),
      responseSerialize: (message) => Buffer.from(toBinary(method.output, message as MessageShape<DescMessage>)),
      responseDeserialize: (bytes) => fromBinary(method.output, bytes),
    };
    const handler =
      (handlers as Record<string, AnyHandler | undefined>)[method.localName] ?? unimplementedCall(method.name);
    implementation[method.localName] = serve(method.name, method.methodKind, handler, { log, observe });
  }
  server.addService(definition, implementation);
}

function unimplementedCall(name: string): AnyHandler {
  return () =>
    Promise.reject(Object.assign(new UnimplementedCall(`${name} is not implemented by this version of berth`)));
}
class UnimplementedCall extends Error {}

interface Watch {
  readonly log: Log;
  readonly observe: Observe;
}

function serve(name: string, kind: string, handler: AnyHandler, { log, observe }: Watch): UntypedHandleCall {
  const begin = (): { done(): void; failed(error: unknown): ReturnType<typeof toServiceError> } => {
    const startedAt = performance.now();
    const told = (code: status): void => observe(name, code, performance.now() - startedAt);
    return {
      done: () => told(status.OK),
      failed: (error) => {
        const answer = toServiceError(name, error, log);
        told(answer.code);
        return answer;
      },
    };
  };
  if (kind === "server_streaming") {
    const stream: handleServerStreamingCall<unknown, unknown> = (call) => {
      const timing = begin();
      void Promise.try(handler, call.request, signalOf(call), (message: unknown) => write(call, message)).then(
        () => {
          timing.done();
          call.end();
        },
        // grpc-js sends the status of an "error" event; destroying the stream would send none.
        (error: unknown) => call.emit("error", timing.failed(error)),
      );
    };
    return stream as UntypedHandleCall;
  }
  const unary: handleUnaryCall<unknown, unknown> = (call, callback) => {
    const timing = begin();
    const request =
      kind === "client_streaming" ? (call as unknown as ServerReadableStream<unknown, unknown>) : call.request;
    void Promise.try(handler, request, signalOf(call)).then(
      (answer) => {
        timing.done();
        callback(null, answer);
      },
      (error: unknown) => callback(timing.failed(error)),
    );
  };
  return unary as UntypedHandleCall;
}

function toServiceError(name: string, error: unknown, log: Log) {
  if (error instanceof UnimplementedCall)
    return { code: status.UNIMPLEMENTED, details: error.message, metadata: new Metadata() };
  const { code, details } = toStatus(error);
  log.warn({ call: name, code: status[code], err: error }, details);
  return { code, details, metadata: new Metadata() };
}

/** A signal that aborts when the client cancels, disconnects, or its deadline passes. */
function signalOf(call: Call): AbortSignal {
  const controller = new AbortController();
  call.on("cancelled", () => {
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
