/** What the CRI knows of pods, which their metrics are labelled by. */
import { create, fromBinary, toBinary } from "@bufbuild/protobuf";
import type { Client } from "@grpc/grpc-js";
import { cri } from "@berth/spec";

export interface PodNames {
  readonly uid: string;
  readonly name: string;
  readonly namespace: string;
}

const TIMEOUT_MS = 3_000;

/** Asks a CRI runtime at its socket. */
export class Pods implements Disposable {
  readonly #client: Client;

  private constructor(client: Client) {
    this.#client = client;
  }

  /** `endpoint`: a socket's path, with or without unix://. Connects at the first question. */
  static async at(endpoint: string): Promise<Pods> {
    const { Client: GrpcClient, credentials } = await import("@grpc/grpc-js");
    const path = endpoint.replace(/^unix:(\/\/)?/, "");
    return new Pods(new GrpcClient(`unix:${path}`, credentials.createInsecure(), { "grpc.enable_retries": 0 }));
  }

  /** By the pod's id. Rejects with grpc's ServiceError. */
  async names(): Promise<ReadonlyMap<string, PodNames>> {
    const { promise, resolve, reject } = Promise.withResolvers<cri.ListPodSandboxResponse>();
    this.#client.makeUnaryRequest(
      "/runtime.v1.RuntimeService/ListPodSandbox",
      (request: cri.ListPodSandboxRequest) => Buffer.from(toBinary(cri.ListPodSandboxRequestSchema, request)),
      (bytes) => fromBinary(cri.ListPodSandboxResponseSchema, bytes),
      create(cri.ListPodSandboxRequestSchema),
      { deadline: Date.now() + TIMEOUT_MS },
      (error, answer) => (answer ? resolve(answer) : reject(error ?? new Error("ListPodSandbox answered nothing"))),
    );
    const { items } = await promise;
    return new Map(
      items.map(({ id, metadata }) => [
        id,
        { uid: metadata?.uid ?? "", name: metadata?.name ?? "", namespace: metadata?.namespace ?? "" },
      ]),
    );
  }

  [Symbol.dispose](): void {
    this.#client.close();
  }
}
