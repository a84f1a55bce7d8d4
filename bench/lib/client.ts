/** One gRPC client for every runtime: unary calls of the CRI as promises. */
import type { DescMethodUnary, DescService, MessageInitShape, MessageShape } from "@bufbuild/protobuf";
import { create, fromBinary, toBinary } from "@bufbuild/protobuf";
import { Client, credentials } from "@grpc/grpc-js";
import { cri } from "@berth/spec";

type Unary<S extends DescService> = {
  [
    K in keyof S["method"] as S["method"][K] extends DescMethodUnary ? K : never
  ]: S["method"][K] extends DescMethodUnary<infer I, infer O>
    ? (request: MessageInitShape<I>) => Promise<MessageShape<O>>
    : never;
};

function unary<S extends DescService>(client: Client, service: S): Unary<S> {
  const calls: Record<string, unknown> = {};
  for (const method of service.methods) {
    if (method.methodKind !== "unary") continue;
    calls[method.localName] = (request: MessageInitShape<typeof method.input>) => {
      const { promise, resolve, reject } = Promise.withResolvers<unknown>();
      client.makeUnaryRequest(
        `/${service.typeName}/${method.name}`,
        (message: MessageShape<typeof method.input>) => Buffer.from(toBinary(method.input, message)),
        (bytes: Buffer) => fromBinary(method.output, bytes),
        create(method.input, request),
        (error, response) => (error ? reject(error) : resolve(response)),
      );
      return promise;
    };
  }
  return calls as Unary<S>;
}

export interface CriClient {
  readonly runtime: Unary<typeof cri.RuntimeService>;
  readonly image: Unary<typeof cri.ImageService>;
  close(): void;
}

export function connectCri(socket: string): CriClient {
  const client = new Client(`unix:${socket}`, credentials.createInsecure());
  return {
    runtime: unary(client, cri.RuntimeService),
    image: unary(client, cri.ImageService),
    close: () => client.close(),
  };
}
