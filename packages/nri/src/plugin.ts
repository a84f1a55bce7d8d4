/** One plugin: its connection, its registration, and the calls that it has subscribed to. */
import type { Duplex } from "node:stream";
import type { DescMessage, DescMethodUnary, MessageInitShape, MessageShape } from "@bufbuild/protobuf";
import {
  type ContainerUpdate,
  type Event,
  EventSchema,
  Event as EVENT,
  Plugin as PluginService,
  type RegisterPluginRequest,
  Runtime,
  type StateChangeEvent,
  type UpdateContainersRequest,
} from "@berth/spec/nri";
import { CODE, TtrpcClient, TtrpcClosed, TtrpcError, TtrpcServer } from "@berth/ttrpc";
import type { PluginLog } from "./log.ts";
import { Multiplexer, PLUGIN_SERVICE, RUNTIME_SERVICE } from "./multiplex.ts";
import { wrongIndex, wrongName } from "./names.ts";

/** The version of NRI whose API this is. */
const NRI_VERSION = "v0.12.2";
/** Of every event there is. */
const ALL_EVENTS = 2 ** (EVENT.LAST - 1) - 1;

export interface PluginSettings {
  /** As plugins are told. */
  readonly runtimeName: string;
  readonly runtimeVersion: string;
  /** ms within which a plugin has to register. */
  readonly registrationTimeoutMs: number;
  /** ms for each call of a plugin. */
  readonly requestTimeoutMs: number;
}

export interface PluginOptions {
  readonly settings: PluginSettings;
  readonly log: PluginLog;
  /** Of its own accord. Resolves to those that could not be updated. */
  readonly onUpdate: (plugin: Plugin, updates: readonly ContainerUpdate[]) => Promise<ContainerUpdate[]>;
  /** Of one that berthd has started: its name is its file's. */
  readonly launched?: { readonly index: string; readonly base: string; readonly config: string };
}

/** An event that a plugin may know only as StateChange. */
interface Old {
  readonly event: Event;
  readonly pod?: StateChangeEvent["pod"];
  readonly container?: StateChangeEvent["container"];
}

export class Plugin {
  readonly #options: PluginOptions;
  readonly #multiplexer: Multiplexer;
  readonly #client: TtrpcClient;
  readonly #server: TtrpcServer;
  readonly #registered = Promise.withResolvers<void>();
  readonly #tellsOldWay = new Set<Event>();
  #index: string;
  #base: string;
  #events = 0;
  #isClosed = false;

  constructor(trunk: Duplex, options: PluginOptions) {
    this.#options = options;
    this.#index = options.launched?.index ?? "??";
    this.#base = options.launched?.base ?? "plugin";
    this.#multiplexer = new Multiplexer(trunk);
    this.#registered.promise.catch(() => undefined);
    this.#server = new TtrpcServer().add(Runtime, {
      registerPlugin: (request) => Promise.resolve(this.#register(request)),
      updateContainers: (request) => this.#update(request),
    });
    this.#server.serve(this.#multiplexer.open(RUNTIME_SERVICE));
    this.#client = new TtrpcClient(this.#multiplexer.open(PLUGIN_SERVICE), "plugin");
    void this.#multiplexer.closed.then(() => this.close());
  }

  get name(): string {
    return `${this.#index}-${this.#base}`;
  }

  get index(): string {
    return this.#index;
  }

  get base(): string {
    return this.#base;
  }

  get isClosed(): boolean {
    return this.#isClosed;
  }

  get closed(): Promise<void> {
    return this.#multiplexer.closed;
  }

  wants(event: Event): boolean {
    return (this.#events & (1 << (event - 1))) !== 0;
  }

  /** Registered and configured; it has closed when this rejects. */
  async start(): Promise<void> {
    const { registrationTimeoutMs, requestTimeoutMs, runtimeName, runtimeVersion } = this.#options.settings;
    const late = (): void => this.#registered.reject(new Error("plugin registration timed out"));
    const timer = setTimeout(late, registrationTimeoutMs);
    try {
      await this.#registered.promise;
      const answer = await this.ask(PluginService.method.configure, {
        config: this.#options.launched?.config ?? "",
        runtimeName,
        runtimeVersion,
        registrationTimeout: BigInt(registrationTimeoutMs),
        requestTimeout: BigInt(requestTimeoutMs),
        NRIVersion: NRI_VERSION,
      });
      const extra = answer.events & ~ALL_EVENTS;
      if (extra !== 0) throw new Error(`invalid plugin events: 0x${(extra >>> 0).toString(16)}`);
      this.#events = answer.events || ALL_EVENTS;
    } catch (error) {
      this.close();
      throw error;
    } finally {
      clearTimeout(timer);
    }
  }

  /** Rejects with TtrpcError, which says what the plugin said, or that it did not. */
  async ask<I extends DescMessage, O extends DescMessage>(
    method: DescMethodUnary<I, O>,
    request: MessageInitShape<I>,
    timeoutMs = this.#options.settings.requestTimeoutMs,
  ): Promise<MessageShape<O>> {
    return await this.#client.call(method, request, { timeoutMs });
  }

  /** As ask(), with the time of a registration, where that is longer: this is the rest of one, and may be about a whole node. */
  async askAtLeisure<I extends DescMessage, O extends DescMessage>(
    method: DescMethodUnary<I, O>,
    request: MessageInitShape<I>,
  ): Promise<MessageShape<O>> {
    const { registrationTimeoutMs, requestTimeoutMs } = this.#options.settings;
    return await this.ask(method, request, Math.max(registrationTimeoutMs, requestTimeoutMs));
  }

  /**
   * What it answers to an event. Undefined: it does not want it, or it has gone or did not answer in time, and is dropped: the rest goes
   * on without it. Rejects with what it refused.
   */
  async tell<I extends DescMessage, O extends DescMessage>(
    event: Event,
    method: DescMethodUnary<I, O>,
    request: MessageInitShape<I>,
    old?: Omit<Old, "event">,
  ): Promise<MessageShape<O> | undefined> {
    if (this.#isClosed || !this.wants(event)) return undefined;
    try {
      if (old && this.#tellsOldWay.has(event)) return await this.#tellOldWay({ event, ...old });
      return await this.ask(method, request);
    } catch (error) {
      if (isFatal(error)) return this.#drop(event, error);
      if (old === undefined || !(error instanceof TtrpcError) || error.code !== CODE.unimplemented)
        throw refused(this.name, error);
    }
    this.#tellsOldWay.add(event);
    this.#options.log.warn(
      { plugin: this.name },
      `the plugin has no ${nameOf(event)} and is told by StateChange, which NRI deprecates; build it with a newer version of NRI`,
    );
    try {
      return await this.#tellOldWay({ event, ...old });
    } catch (error) {
      if (isFatal(error)) return this.#drop(event, error);
      throw refused(this.name, error);
    }
  }

  /** Its connection ends; one that berthd has started ends with it. */
  close(): void {
    if (this.#isClosed) return;
    this.#isClosed = true;
    this.#registered.reject(new Error("the connection ended before the plugin had registered"));
    this.#client.close();
    // Its own calls that are under way are aborted; it listens nowhere.
    void this.#server.close();
    this.#multiplexer.close();
  }

  async #tellOldWay(change: Old): Promise<undefined> {
    await this.ask(PluginService.method.stateChange, change);
    return undefined;
  }

  #drop(event: Event, error: unknown): undefined {
    this.#options.log.error(
      { plugin: this.name, err: error },
      `the plugin is dropped: it failed to handle ${nameOf(event)}`,
    );
    this.close();
    return undefined;
  }

  #register({ pluginName, pluginIdx }: RegisterPluginRequest): Record<string, never> {
    if (this.#options.launched === undefined) {
      const wrong = wrongName(pluginName) ?? wrongIndex(pluginIdx);
      if (wrong !== undefined) {
        this.#registered.reject(new Error(wrong));
        throw new TtrpcError(CODE.unknown, wrong);
      }
      this.#base = pluginName;
      this.#index = pluginIdx;
    }
    this.#registered.resolve();
    return {};
  }

  async #update({ update, evict }: UpdateContainersRequest): Promise<{ failed: ContainerUpdate[] }> {
    if (evict.length > 0)
      this.#options.log.warn(
        { plugin: this.name, containers: evict.map(({ containerId }) => containerId) },
        "the plugin asked for evictions, which no runtime carries out",
      );
    const failed = await this.#options.onUpdate(this, update);
    // As an error, or the plugin's stub would not look at the list.
    if (failed.length > 0)
      throw new TtrpcError(
        CODE.unknown,
        `update of some containers failed: ${failed.map(({ containerId }) => containerId).join(", ")}`,
      );
    return { failed };
  }
}

export const nameOf = (event: Event): string => EventSchema.value[event]?.name ?? String(event);

function refused(plugin: string, error: unknown): Error {
  return new Error(`plugin ${plugin}: ${(error as Error).message}`, { cause: error });
}

const isFatal = (error: unknown): boolean =>
  error instanceof TtrpcClosed || (error instanceof TtrpcError && error.code === CODE.deadlineExceeded);
