/** A plugin, as tests write them: its handlers are NRI's Plugin service, and what it was told is kept in order. */
import { connect, type Socket } from "node:net";
import type { MessageInitShape, MessageShape } from "@bufbuild/protobuf";
import {
  Event,
  Plugin as PluginService,
  type RegisterPluginRequestSchema,
  Runtime,
  type UpdateContainersRequestSchema,
  type UpdateContainersResponse,
} from "@berth/spec/nri";
import { CODE, type Handlers, TtrpcClient, TtrpcError, TtrpcServer } from "@berth/ttrpc";
import { Multiplexer, PLUGIN_SERVICE, RUNTIME_SERVICE } from "../multiplex.ts";

type Method = keyof typeof PluginService.method;
type Request<M extends Method> = MessageShape<(typeof PluginService)["method"][M]["input"]>;
export type PluginHandlers = Handlers<typeof PluginService>;

export interface TestPluginOptions {
  readonly name?: string;
  readonly index?: string;
  /** Undefined: all of them. */
  readonly events?: readonly (keyof typeof Event)[];
  readonly handlers?: PluginHandlers;
}

export interface Told {
  readonly call: Method;
  readonly request: unknown;
}

export class TestPlugin implements AsyncDisposable {
  readonly told: Told[] = [];
  readonly runtime: TtrpcClient;
  readonly #multiplexer: Multiplexer;
  readonly #server = new TtrpcServer();
  readonly #synchronized = Promise.withResolvers<void>();
  #waiting: (() => void)[] = [];

  constructor(connection: Socket, { events = [], handlers = {} }: TestPluginOptions = {}) {
    this.#multiplexer = new Multiplexer(connection);
    const mask = events.reduce((all, event) => all | (1 << (Event[event] - 1)), 0);
    const own: PluginHandlers = {
      configure: () => Promise.resolve({ events: mask }),
      synchronize: ({ more }) => Promise.resolve({ more }),
    };
    const served = Object.fromEntries(
      (Object.keys(PluginService.method) as Method[]).map((call) => [
        call,
        async (request: unknown, ...rest: unknown[]) => {
          this.told.push({ call, request });
          for (const wake of this.#waiting.splice(0)) wake();
          const handler = (handlers[call] ?? own[call]) as ((...given: unknown[]) => unknown) | undefined;
          const answer = handler === undefined ? {} : await handler(request, ...rest);
          if (call === "synchronize" && !(request as Request<"synchronize">).more) this.#synchronized.resolve();
          return answer;
        },
      ]),
    );
    this.#server.add(PluginService, served).serve(this.#multiplexer.open(PLUGIN_SERVICE));
    this.runtime = new TtrpcClient(this.#multiplexer.open(RUNTIME_SERVICE), "runtime");
  }

  /** Connected to the socket at `path`, registered and synchronized. */
  static async connect(path: string, options: TestPluginOptions = {}): Promise<TestPlugin> {
    const plugin = new TestPlugin(connect(path), options);
    await plugin.register({ pluginName: options.name ?? "test", pluginIdx: options.index ?? "10" });
    await Promise.race([plugin.synchronized, plugin.closed.then(gone)]);
    return plugin;
  }

  async register(request: MessageInitShape<typeof RegisterPluginRequestSchema>): Promise<void> {
    await this.runtime.call(Runtime.method.registerPlugin, request);
  }

  async update(request: MessageInitShape<typeof UpdateContainersRequestSchema>): Promise<UpdateContainersResponse> {
    return await this.runtime.call(Runtime.method.updateContainers, request);
  }

  get synchronized(): Promise<void> {
    return this.#synchronized.promise;
  }

  get closed(): Promise<void> {
    return this.#multiplexer.closed;
  }

  /** The first request of this call that `holds` for, as soon as it has come. */
  async request<M extends Method>(call: M, holds: (request: Request<M>) => boolean = () => true): Promise<Request<M>> {
    for (;;) {
      const found = this.told.find((one) => one.call === call && holds(one.request as Request<M>));
      if (found) return found.request as Request<M>;
      const { promise, resolve } = Promise.withResolvers<void>();
      this.#waiting.push(resolve);
      await Promise.race([promise, this.closed.then(gone)]);
    }
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.#multiplexer.close();
    await this.#server.close();
    await this.closed;
  }
}

function gone(): never {
  throw new TtrpcError(CODE.unavailable, "the plugin's connection has ended");
}
