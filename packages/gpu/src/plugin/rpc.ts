/** gRPC, as far as a device plugin needs it: a server of one service, and one call to the kubelet. */
import {
  create,
  type DescMessage,
  type DescMethodUnary,
  type DescService,
  fromBinary,
  type MessageInitShape,
  type MessageShape,
  toBinary,
} from "@bufbuild/protobuf";
import { Client, credentials, type MethodDefinition, Server, ServerCredentials } from "@grpc/grpc-js";

/** Method definitions for grpc-js, by the names of the generated code. */
export function definitionOf(service: DescService): Record<string, MethodDefinition<unknown, unknown>> {
  return Object.fromEntries(
    service.methods.map((method) => [
      method.localName,
      {
        path: `/${service.typeName}/${method.name}`,
        requestStream: false,
        responseStream: method.methodKind === "server_streaming",
        requestSerialize: (message: unknown) =>
          Buffer.from(toBinary(method.input, message as MessageShape<DescMessage>)),
        requestDeserialize: (bytes: Buffer) => fromBinary(method.input, bytes),
        responseSerialize: (message: unknown) =>
          Buffer.from(toBinary(method.output, message as MessageShape<DescMessage>)),
        responseDeserialize: (bytes: Buffer) => fromBinary(method.output, bytes),
      },
    ]),
  );
}

/** Rejects when the socket cannot be bound. */
export async function listen(server: Server, socket: string): Promise<void> {
  const { promise, resolve, reject } = Promise.withResolvers<void>();
  server.bindAsync(`unix:${socket}`, ServerCredentials.createInsecure(), (error) =>
    error ? reject(error) : resolve(),
  );
  await promise;
}

/** One call on a connection of its own. Rejects with the status, or when nobody answers within `timeoutMs`. */
export async function call<I extends DescMessage, O extends DescMessage>(
  socket: string,
  method: DescMethodUnary<I, O>,
  request: MessageInitShape<I>,
  timeoutMs: number,
): Promise<MessageShape<O>> {
  const client = new Client(`unix:${socket}`, credentials.createInsecure(), { "grpc.default_authority": "localhost" });
  const { promise, resolve, reject } = Promise.withResolvers<MessageShape<O>>();
  client.makeUnaryRequest(
    `/${method.parent.typeName}/${method.name}`,
    (message: MessageShape<I>) => Buffer.from(toBinary(method.input, message)),
    (bytes: Buffer) => fromBinary(method.output, bytes),
    create(method.input, request),
    { deadline: Date.now() + timeoutMs },
    (error, response) => (error || !response ? reject(error ?? new Error("no answer")) : resolve(response)),
  );
  try {
    return await promise;
  } finally {
    client.close();
  }
}

export { Server };
