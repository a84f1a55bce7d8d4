/** A shim's Task service, version 2 or 3. */
import type { DescMessage, DescMethodUnary, MessageInitShape, MessageShape } from "@bufbuild/protobuf";
import { task, taskV3 } from "@berth/spec/shim";
import { type CallOptions, TtrpcClient } from "@berth/ttrpc";
import type { Bootstrap } from "./launch.ts";

type Methods = typeof task.Task.method;
type Input<N extends keyof Methods> = Methods[N] extends DescMethodUnary<infer I> ? I : never;
type Output<N extends keyof Methods> = Methods[N] extends DescMethodUnary<DescMessage, infer O> ? O : never;

/** What containerd's servers take the namespace from. */
export const namespaceMetadata = (namespace: string): Readonly<Record<string, readonly string[]>> => ({
  "containerd-namespace-ttrpc": [namespace],
});

/** The methods of both versions have the same messages; they differ in the service's name. */
export const serviceOf = (version: 2 | 3): { readonly method: Methods } => (version === 3 ? taskV3.Task : task.Task);

export class TaskService {
  readonly #client: TtrpcClient;
  readonly #methods: Methods;
  readonly #namespace: string;

  constructor(client: TtrpcClient, version: 2 | 3, namespace: string) {
    this.#client = client;
    this.#methods = serviceOf(version).method;
    this.#namespace = namespace;
  }

  /** Rejects with connect(2)'s error. */
  static async connect({ address, version }: Bootstrap, namespace: string): Promise<TaskService> {
    return new TaskService(await TtrpcClient.connect(address.replace(/^@/, "\0")), version, namespace);
  }

  /** Settles when the shim's connection has gone. */
  get closed(): Promise<void> {
    return this.#client.closed;
  }

  async call<N extends keyof Methods>(
    name: N,
    request: MessageInitShape<Input<N>>,
    options: Omit<CallOptions, "metadata"> = {},
  ): Promise<MessageShape<Output<N>>> {
    const method = this.#methods[name] as unknown as DescMethodUnary<Input<N>, Output<N>>;
    return await this.#client.call(method, request, { ...options, metadata: namespaceMetadata(this.#namespace) });
  }

  close(): void {
    this.#client.close();
  }
}
