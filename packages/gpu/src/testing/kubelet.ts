/** A kubelet as far as device plugins see one: it takes registrations, connects back, follows the lists, and allocates. */
import { rm } from "node:fs/promises";
import { join } from "node:path";
import {
  create,
  type DescMethodUnary,
  type DescMessage,
  fromBinary,
  type MessageInitShape,
  type MessageShape,
  toBinary,
} from "@bufbuild/protobuf";
import * as api from "@berth/spec/device-plugin";
import { Client, credentials, type sendUnaryData, type ServerUnaryCall } from "@grpc/grpc-js";
import { definitionOf, listen, Server } from "../plugin/rpc.ts";

export interface Resource {
  readonly request: MessageShape<typeof api.RegisterRequestSchema>;
  /** Every list so far, as `{id: health}`. */
  readonly lists: Record<string, string>[];
  readonly last: MessageShape<typeof api.ListAndWatchResponseSchema> | undefined;
  call<I extends DescMessage, O extends DescMessage>(
    method: DescMethodUnary<I, O>,
    request: MessageInitShape<I>,
  ): Promise<MessageShape<O>>;
}

export class FakeKubelet {
  readonly socket: string;
  /** By name; the newest registration of each. */
  readonly resources = new Map<string, Resource>();
  /** So many so far. */
  registrations = 0;
  /** What a registration's answer waits for. */
  beforeAnswer: () => Promise<void> = () => Promise.resolve();
  #server: Server | undefined;
  readonly #clients = new Set<Client>();
  #changed = Promise.withResolvers<void>();

  constructor(dir: string) {
    this.socket = join(dir, "kubelet.sock");
  }

  /** As a kubelet does when it starts: its directory's sockets are gone, and so is all it knew. */
  async start(): Promise<void> {
    this.resources.clear();
    const server = new Server();
    server.addService(definitionOf(api.Registration), {
      register: (
        { request }: ServerUnaryCall<MessageShape<typeof api.RegisterRequestSchema>, unknown>,
        callback: sendUnaryData<unknown>,
      ) => {
        this.registrations++;
        void this.beforeAnswer().then(() => {
          callback(null, create(api.EmptySchema));
          this.#follow(request);
        });
      },
    });
    await listen(server, this.socket);
    this.#server = server;
  }

  async stop(): Promise<void> {
    for (const client of this.#clients) client.close();
    this.#clients.clear();
    this.#server?.forceShutdown();
    await rm(this.socket, { force: true });
  }

  /** Resolves when `holds`, which is asked after every change. */
  async until(holds: () => boolean): Promise<void> {
    while (!holds()) await this.#changed.promise;
  }

  #follow(request: MessageShape<typeof api.RegisterRequestSchema>): void {
    const client = new Client(`unix:${join(this.socket, "..", request.endpoint)}`, credentials.createInsecure(), {
      "grpc.default_authority": "localhost",
    });
    this.#clients.add(client);
    const lists: Record<string, string>[] = [];
    const resource = {
      request,
      lists,
      last: undefined as MessageShape<typeof api.ListAndWatchResponseSchema> | undefined,
      call: <I extends DescMessage, O extends DescMessage>(
        method: DescMethodUnary<I, O>,
        message: MessageInitShape<I>,
      ) => {
        const { promise, resolve, reject } = Promise.withResolvers<MessageShape<O>>();
        client.makeUnaryRequest(
          `/${method.parent.typeName}/${method.name}`,
          (value: MessageShape<I>) => Buffer.from(toBinary(method.input, value)),
          (bytes: Buffer) => fromBinary(method.output, bytes),
          create(method.input, message),
          (error, response) => (error || !response ? reject(error ?? new Error("no answer")) : resolve(response)),
        );
        return promise;
      },
    };
    const { listAndWatch } = api.DevicePlugin.method;
    const stream = client.makeServerStreamRequest(
      `/${api.DevicePlugin.typeName}/${listAndWatch.name}`,
      (value: MessageShape<typeof listAndWatch.input>) => Buffer.from(toBinary(listAndWatch.input, value)),
      (bytes: Buffer) => fromBinary(listAndWatch.output, bytes),
      create(listAndWatch.input),
    );
    stream.on("data", (list: MessageShape<typeof listAndWatch.output>) => {
      resource.last = list;
      lists.push(Object.fromEntries(list.devices.map(({ ID, health }) => [ID, health])));
      this.#tell();
    });
    stream.on("error", () => {});
    this.resources.set(request.resourceName, resource);
    this.#tell();
  }

  #tell(): void {
    this.#changed.resolve();
    this.#changed = Promise.withResolvers<void>();
  }
}
