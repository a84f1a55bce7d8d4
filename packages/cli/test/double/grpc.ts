/** Serves protobuf services over grpc-js for tests; a call without a handler answers Unimplemented. */
import type { DescMessage, DescService, MessageInitShape, MessageShape } from "@bufbuild/protobuf";
import { create, fromBinary, toBinary } from "@bufbuild/protobuf";
import {
  Metadata,
  type MethodDefinition,
  type Server,
  type ServerReadableStream,
  type ServerUnaryCall,
  type ServerWritableStream,
  type sendUnaryData,
  status,
  type UntypedHandleCall,
} from "@grpc/grpc-js";

type Input<M> = M extends { input: infer I extends DescMessage } ? MessageShape<I> : never;
type Output<M> = M extends { output: infer O extends DescMessage } ? MessageInitShape<O> : never;

export type Handlers<S extends DescService> = {
  readonly [K in keyof S["method"]]?: S["method"][K] extends { methodKind: "unary" }
    ? (request: Input<S["method"][K]>) => Output<S["method"][K]> | Promise<Output<S["method"][K]>>
    : S["method"][K] extends { methodKind: "server_streaming" }
      ? (request: Input<S["method"][K]>, cancelled: AbortSignal) => AsyncIterable<Output<S["method"][K]>>
      : (requests: AsyncIterable<Input<S["method"][K]>>) => Promise<Output<S["method"][K]>>;
};

export class RpcError extends Error {
  readonly code: status;
  constructor(code: status, message: string) {
    super(message);
    this.code = code;
  }
}

type AnyHandler = (input: unknown, cancelled: AbortSignal) => unknown;

export function serve<S extends DescService>(server: Server, service: S, handlers: Handlers<S>): void {
  const definition: Record<string, MethodDefinition<unknown, unknown>> = {};
  const implementation: Record<string, UntypedHandleCall> = {};
  for (const method of service.methods) {
    const handler = (handlers as Record<string, AnyHandler | undefined>)[method.localName];
    if (!handler) continue;
    definition[method.localName] = {
      path: `/${service.typeName}/${method.name}`,
      requestStream: method.methodKind === "client_streaming",
      responseStream: method.methodKind === "server_streaming",
      requestSerialize: (message) => Buffer.from(toBinary(method.input, message as MessageShape<DescMessage>)),
      requestDeserialize: (bytes) => fromBinary(method.input, bytes),
      responseSerialize: (message) =>
        Buffer.from(toBinary(method.output, create(method.output, message as MessageInitShape<DescMessage>))),
      responseDeserialize: (bytes) => fromBinary(method.output, bytes),
    };
    implementation[method.localName] =
      method.methodKind === "server_streaming"
        ? streaming(handler)
        : answering(handler, method.methodKind === "client_streaming");
  }
  server.addService(definition, implementation);
}

const toServiceError = (error: unknown) => ({
  code: error instanceof RpcError ? error.code : status.UNKNOWN,
  details: error instanceof Error ? error.message : String(error),
  metadata: new Metadata(),
});

function answering(handler: AnyHandler, manyRequests: boolean): UntypedHandleCall {
  return ((
    call: ServerUnaryCall<unknown, unknown> | ServerReadableStream<unknown, unknown>,
    callback: sendUnaryData<unknown>,
  ) => {
    const input = manyRequests ? call : (call as ServerUnaryCall<unknown, unknown>).request;
    const attempt = async (): Promise<unknown> => await handler(input, cancelledSignal(call));
    attempt().then(
      (answer) => callback(null, answer),
      (error: unknown) => callback(toServiceError(error)),
    );
  }) as UntypedHandleCall;
}

function streaming(handler: AnyHandler): UntypedHandleCall {
  return (async (call: ServerWritableStream<unknown, unknown>) => {
    try {
      for await (const message of handler(call.request, cancelledSignal(call)) as AsyncIterable<unknown>)
        call.write(message);
      call.end();
    } catch (error) {
      // Not destroy(): grpc-js would then never send the status.
      call.emit("error", toServiceError(error));
    }
  }) as UntypedHandleCall;
}

function cancelledSignal(call: { on(event: "cancelled", listener: () => void): unknown }): AbortSignal {
  const controller = new AbortController();
  call.on("cancelled", () => controller.abort());
  return controller.signal;
}
