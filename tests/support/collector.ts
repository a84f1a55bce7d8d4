/** An OpenTelemetry collector's part in a test: takes OTLP spans over HTTP and over gRPC, and waits for those that are wanted. */
import { EventEmitter, once } from "node:events";
import { createServer } from "node:http";
import type { AddressInfo } from "node:net";
import { BinaryReader, WireType } from "@bufbuild/protobuf/wire";
import { Server, ServerCredentials } from "@grpc/grpc-js";

export interface ReceivedSpan {
  readonly traceId: string;
  readonly spanId: string;
  /** "": it has none. */
  readonly parent: string;
  readonly name: string;
  readonly kind: number;
  readonly startedAt: bigint;
  readonly finishedAt: bigint;
  readonly attributes: Readonly<Record<string, string | number>>;
  /** 2: an error. */
  readonly status: number;
  readonly resource: Readonly<Record<string, string | number>>;
}

/** The fields of one message by number; each kind of value as protobuf's wire format has it. */
type Fields = ReadonlyMap<number, readonly (Uint8Array | bigint | number)[]>;

function fieldsOf(bytes: Uint8Array): Fields {
  const reader = new BinaryReader(bytes);
  const fields = new Map<number, (Uint8Array | bigint | number)[]>();
  while (reader.pos < reader.len) {
    const [number, type] = reader.tag();
    const values = fields.get(number) ?? [];
    fields.set(number, values);
    if (type === WireType.LengthDelimited) values.push(reader.bytes());
    else if (type === WireType.Bit64) values.push(BigInt(reader.fixed64()));
    else if (type === WireType.Bit32) values.push(reader.fixed32());
    else values.push(Number(reader.int64()));
  }
  return fields;
}

const messages = (fields: Fields, number: number): Fields[] =>
  (fields.get(number) ?? []).map((value) => fieldsOf(value as Uint8Array));
const text = (fields: Fields, number: number): string => Buffer.from(bytesOf(fields, number)).toString();
const bytesOf = (fields: Fields, number: number): Uint8Array =>
  (fields.get(number)?.[0] as Uint8Array | undefined) ?? new Uint8Array();
const integer = (fields: Fields, number: number): bigint =>
  BigInt((fields.get(number)?.[0] as bigint | undefined) ?? 0);

/** KeyValue: strings and integers. */
function attributesOf(fields: Fields, number: number): Record<string, string | number> {
  const attributes: Record<string, string | number> = {};
  for (const pair of messages(fields, number)) {
    for (const value of messages(pair, 2))
      attributes[text(pair, 1)] = value.has(1) ? text(value, 1) : Number(integer(value, 3));
  }
  return attributes;
}

/** opentelemetry/proto/collector/trace/v1/trace_service.proto: ExportTraceServiceRequest. */
function spansOf(request: Uint8Array): ReceivedSpan[] {
  return messages(fieldsOf(request), 1).flatMap((resourceSpans) => {
    const [resource] = messages(resourceSpans, 1).map((fields) => attributesOf(fields, 1));
    const spans = messages(resourceSpans, 2).flatMap((scope) => messages(scope, 2));
    return spans.map((span) => ({
      traceId: Buffer.from(bytesOf(span, 1)).toString("hex"),
      spanId: Buffer.from(bytesOf(span, 2)).toString("hex"),
      parent: Buffer.from(bytesOf(span, 4)).toString("hex"),
      name: text(span, 5),
      kind: Number(integer(span, 6)),
      startedAt: integer(span, 7),
      finishedAt: integer(span, 8),
      attributes: attributesOf(span, 9),
      status: messages(span, 15).map((status) => Number(integer(status, 3)))[0] ?? 0,
      resource: resource ?? {},
    }));
  });
}

export class Collector implements AsyncDisposable {
  readonly spans: ReceivedSpan[] = [];
  /** Request headers or metadata, of the last export. */
  headers: Readonly<Record<string, unknown>> = {};
  readonly #arrived = new EventEmitter();
  #close: () => Promise<void> = () => Promise.resolve();

  private constructor() {}

  static async http(): Promise<{ collector: Collector; url: string }> {
    const collector = new Collector();
    const server = createServer((request, response) => {
      const chunks: Buffer[] = [];
      request.on("data", (chunk: Buffer) => chunks.push(chunk));
      request.on("end", () => {
        if (request.url !== "/v1/traces" || request.headers["content-type"] !== "application/x-protobuf") {
          response.writeHead(404).end();
          return;
        }
        collector.#take(Buffer.concat(chunks), request.headers);
        response.writeHead(200, { "content-type": "application/x-protobuf" }).end();
      });
    });
    server.listen(0, "127.0.0.1");
    await once(server, "listening");
    collector.#close = async () => {
      server.closeAllConnections();
      server.close();
      await once(server, "close");
    };
    return { collector, url: `http://127.0.0.1:${(server.address() as AddressInfo).port}` };
  }

  static async grpc(): Promise<{ collector: Collector; address: string }> {
    const collector = new Collector();
    const server = new Server();
    const raw = (bytes: Buffer): Buffer => bytes;
    const method = {
      path: "/opentelemetry.proto.collector.trace.v1.TraceService/Export",
      requestStream: false,
      responseStream: false,
      requestSerialize: raw,
      requestDeserialize: raw,
      responseSerialize: raw,
      responseDeserialize: raw,
    } as const;
    server.addService(
      { export: method },
      {
        export: (call: { request: Buffer; metadata: { getMap(): Record<string, unknown> } }, answer: Answer) => {
          collector.#take(call.request, call.metadata.getMap());
          answer(null, Buffer.alloc(0));
        },
      },
    );
    const { promise, resolve, reject } = Promise.withResolvers<number>();
    server.bindAsync("127.0.0.1:0", ServerCredentials.createInsecure(), (error, port) =>
      error ? reject(error) : resolve(port),
    );
    const address = `127.0.0.1:${await promise}`;
    collector.#close = async () => server.forceShutdown();
    return { collector, address };
  }

  /** The spans, once there is one of each of these names. */
  async until(...names: string[]): Promise<readonly ReceivedSpan[]> {
    while (!names.every((name) => this.spans.some((span) => span.name === name))) await once(this.#arrived, "spans");
    return this.spans;
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.#close();
  }

  #take(request: Uint8Array, headers: Readonly<Record<string, unknown>>): void {
    this.headers = headers;
    this.spans.push(...spansOf(request));
    this.#arrived.emit("spans");
  }
}

type Answer = (error: null, response: Buffer) => void;
