/** One resource's plugin: its socket, its registration, and the kubelet's calls. */
import { rm } from "node:fs/promises";
import { basename, join } from "node:path";
import { create, type MessageShape } from "@bufbuild/protobuf";
import * as api from "@berth/spec/device-plugin";
import { type sendUnaryData, type ServerUnaryCall, type ServerWritableStream, status } from "@grpc/grpc-js";
import { socketDirectory } from "./kubelet.ts";
import type { PluginMetrics } from "./metrics.ts";
import { AllocationError, type ListedDevice, type Offer } from "./offer.ts";
import { call, definitionOf, listen, Server } from "./rpc.ts";

const API_VERSION = "v1beta1";
const REGISTER_TIMEOUT_MS = 5_000;

type Unary<I, O> = (call: Pick<ServerUnaryCall<I, O>, "request">, callback: sendUnaryData<O>) => void;

export class PluginServer<D extends ListedDevice> {
  readonly offer: Offer<D>;
  readonly socket: string;
  readonly #kubelet: string;
  readonly #server = new Server();
  readonly #watching = new Set<ServerWritableStream<unknown, unknown>>();
  readonly #metrics: PluginMetrics | undefined;
  #devices: readonly D[];

  /** `kubeletSocket`: "" is told nothing, and plugins then listen where a kubelet would look. */
  constructor(offer: Offer<D>, devices: readonly D[], kubeletSocket: string, metrics?: PluginMetrics) {
    this.offer = offer;
    this.#devices = devices;
    this.#kubelet = kubeletSocket;
    this.#metrics = metrics;
    this.socket = join(socketDirectory(kubeletSocket), offer.socketName);
    const answering = <I, O>(method: string, answer: (request: I) => O) => this.#answering(method, answer);
    this.#server.addService(definitionOf(api.DevicePlugin), {
      getDevicePluginOptions: answering("GetDevicePluginOptions", () => options()),
      listAndWatch: (stream: ServerWritableStream<unknown, unknown>) => this.#watch(stream),
      getPreferredAllocation: answering(
        "GetPreferredAllocation",
        (request: MessageShape<typeof api.PreferredAllocationRequestSchema>) => this.#preferred(request),
      ),
      allocate: answering("Allocate", (request: MessageShape<typeof api.AllocateRequestSchema>) =>
        this.#allocate(request),
      ),
      preStartContainer: answering("PreStartContainer", () => create(api.PreStartContainerResponseSchema)),
    });
  }

  /** Listens, and then tells the kubelet. Rejects when either fails; then nothing listens. */
  async start(): Promise<void> {
    await rm(this.socket, { force: true });
    await listen(this.#server, this.socket);
    if (this.#kubelet === "") return;
    try {
      const request = {
        version: API_VERSION,
        endpoint: basename(this.socket),
        resourceName: this.offer.name,
        options: options(),
      };
      await call(this.#kubelet, api.Registration.method.register, request, REGISTER_TIMEOUT_MS);
    } catch (error) {
      await this.close();
      throw error;
    }
  }

  get devices(): readonly D[] {
    return this.#devices;
  }

  /** Told to the kubelet when it is different from what was told before. */
  update(devices: readonly D[]): void {
    if (JSON.stringify(devices) === JSON.stringify(this.#devices)) return;
    this.#devices = devices;
    for (const stream of this.#watching) stream.write(this.#list());
  }

  async close(): Promise<void> {
    for (const stream of this.#watching) stream.end();
    this.#server.forceShutdown();
    await rm(this.socket, { force: true });
  }

  #watch(stream: ServerWritableStream<unknown, unknown>): void {
    this.#metrics?.called(this.offer.name, "ListAndWatch", nameOf(status.OK), undefined);
    this.#watching.add(stream);
    stream.on("cancelled", () => this.#watching.delete(stream));
    stream.write(this.#list());
  }

  #answering<I, O>(method: string, answer: (request: I) => O): Unary<I, O> {
    const done = (code: status, began: number): void =>
      this.#metrics?.called(this.offer.name, method, nameOf(code), (performance.now() - began) / 1000);
    return ({ request }, callback) => {
      const began = performance.now();
      try {
        const answered = answer(request);
        done(status.OK, began);
        callback(null, answered);
      } catch (error) {
        const code = error instanceof AllocationError ? status.INVALID_ARGUMENT : status.INTERNAL;
        done(code, began);
        callback({ code, details: (error as Error).message });
      }
    };
  }

  #list(): MessageShape<typeof api.ListAndWatchResponseSchema> {
    return create(api.ListAndWatchResponseSchema, {
      devices: this.#devices.map(({ id, problem, numaNodes }) => ({
        ID: id,
        health: problem === undefined ? "Healthy" : "Unhealthy",
        ...(numaNodes.length > 0 && { topology: { nodes: numaNodes.map((node) => ({ ID: BigInt(node) })) } }),
      })),
    });
  }

  #allocate({ containerRequests }: MessageShape<typeof api.AllocateRequestSchema>) {
    return create(api.AllocateResponseSchema, {
      containerResponses: containerRequests.map(({ devicesIds }) => this.offer.allocate(this.#devices, devicesIds)),
    });
  }

  #preferred({ containerRequests }: MessageShape<typeof api.PreferredAllocationRequestSchema>) {
    return create(api.PreferredAllocationResponseSchema, {
      containerResponses: containerRequests.map(({ availableDeviceIDs, mustIncludeDeviceIDs, allocationSize }) => ({
        deviceIDs: this.offer.preferred(this.#devices, {
          available: availableDeviceIDs,
          must: mustIncludeDeviceIDs,
          size: allocationSize,
        }),
      })),
    });
  }
}

const options = () => create(api.DevicePluginOptionsSchema, { getPreferredAllocationAvailable: true });

/** As gRPC writes a status: "InvalidArgument". */
const nameOf = (code: status): string =>
  code === status.OK
    ? "OK"
    : (status[code] ?? "UNKNOWN").toLowerCase().replace(/(?:^|_)([a-z])/g, (_, letter: string) => letter.toUpperCase());
