/** One gRPC client for every runtime: unary calls of the CRI as promises, streams as iterables. */
import type {
  DescMethodServerStreaming,
  DescMethodUnary,
  DescService,
  MessageInitShape,
  MessageShape,
} from "@bufbuild/protobuf";
import { create, fromBinary, toBinary } from "@bufbuild/protobuf";
import { Client, credentials, Metadata } from "@grpc/grpc-js";
import { cri } from "@berth/spec";

type Unary<S extends DescService> = {
  [
    K in keyof S["method"] as S["method"][K] extends DescMethodUnary ? K : never
  ]: S["method"][K] extends DescMethodUnary<infer I, infer O>
    ? (request: MessageInitShape<I>) => Promise<MessageShape<O>>
    : never;
};

function unary<S extends DescService>(client: Client, service: S, metadata: Metadata): Unary<S> {
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
        metadata,
        (error, response) => (error ? reject(error) : resolve(response)),
      );
      return promise;
    };
  }
  return calls as Unary<S>;
}

type Streams<S extends DescService> = {
  [
    K in keyof S["method"] as S["method"][K] extends DescMethodServerStreaming ? K : never
  ]: S["method"][K] extends DescMethodServerStreaming<infer I, infer O>
    ? (request: MessageInitShape<I>, signal?: AbortSignal) => AsyncGenerator<MessageShape<O>>
    : never;
};

/** A stream that is left, or whose signal aborts, is cancelled. */
function streams<S extends DescService>(client: Client, service: S): Streams<S> {
  const calls: Record<string, unknown> = {};
  for (const method of service.methods) {
    if (method.methodKind !== "server_streaming") continue;
    calls[method.localName] = async function* (
      request: MessageInitShape<typeof method.input>,
      signal?: AbortSignal,
    ): AsyncGenerator {
      const call = client.makeServerStreamRequest(
        `/${service.typeName}/${method.name}`,
        (message: MessageShape<typeof method.input>) => Buffer.from(toBinary(method.input, message)),
        (bytes: Buffer) => fromBinary(method.output, bytes),
        create(method.input, request),
      );
      signal?.addEventListener("abort", () => call.cancel(), { once: true });
      try {
        yield* call;
      } catch (error) {
        if (!signal?.aborted) throw error;
      } finally {
        call.cancel();
      }
    };
  }
  return calls as Streams<S>;
}

export interface CriClient {
  readonly runtime: Unary<typeof cri.RuntimeService> & Streams<typeof cri.RuntimeService>;
  readonly image: Unary<typeof cri.ImageService> & Streams<typeof cri.ImageService>;
  close(): void;
}

/** `metadata`: of each unary call. */
export function connectCri(socket: string, metadata = new Metadata()): CriClient {
  const client = new Client(`unix:${socket}`, credentials.createInsecure());
  return {
    runtime: { ...unary(client, cri.RuntimeService, metadata), ...streams(client, cri.RuntimeService) },
    image: { ...unary(client, cri.ImageService, metadata), ...streams(client, cri.ImageService) },
    close: () => client.close(),
  };
}
