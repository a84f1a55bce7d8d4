/** All plugins of a node: they come and go, and are asked and told of what happens to pods and containers, one after the other. */
import type { Socket } from "node:net";
import { clone, create, type DescMessage, type DescMethodUnary, type MessageInitShape } from "@bufbuild/protobuf";
import {
  type Container,
  type ContainerAdjustment,
  ContainerSchema,
  type ContainerUpdate,
  Event,
  type LinuxResources,
  Plugin as PluginService,
  type PodSandbox,
  type ValidateContainerAdjustmentRequest,
  ValidateContainerAdjustmentRequestSchema,
} from "@berth/spec/nri";
import { Adjusting } from "./adjusting.ts";
import type { Installed } from "./door.ts";
import { launch } from "./launch.ts";
import type { PluginLog } from "./log.ts";
import { Owners } from "./owners.ts";
import { Plugin, type PluginOptions, type PluginSettings } from "./plugin.ts";
import { type Known, synchronize } from "./synchronize.ts";
import { Updates } from "./updates.ts";
import { validate, type ValidatorSettings } from "./validator.ts";

/** The runtime, as plugins see it and change it. */
export interface NriHost {
  /** What exists: pods, and containers that have not ended. */
  known(): Promise<Known>;
  /** Rejects with why it could not be done. One that is not there any more is no error. */
  update(update: ContainerUpdate): Promise<void>;
  /** Carries `work` out while nothing is being made that `known` does not have and plugins have been asked about. */
  quietly<T>(work: () => Promise<T>): Promise<T>;
}

export interface NriOptions {
  readonly settings: PluginSettings;
  /** The built-in one; undefined: it is not enabled. */
  readonly validator: ValidatorSettings | undefined;
  readonly host: NriHost;
  readonly log: PluginLog;
}

export interface PodAndContainer {
  readonly pod: PodSandbox;
  readonly container: Container;
}

const { method } = PluginService;

export class Nri implements AsyncDisposable {
  readonly #options: NriOptions;
  /** In the order in which they are called. */
  #plugins: Plugin[] = [];
  /** Those that are not synchronized yet too. */
  readonly #connected = new Set<Plugin>();
  readonly #processes = new AsyncDisposableStack();
  #last: Promise<unknown> = Promise.resolve();

  constructor(options: NriOptions) {
    this.#options = options;
  }

  /** Whether there is anybody to be asked. */
  get isActive(): boolean {
    return this.#plugins.length > 0 || this.#options.validator !== undefined;
  }

  /** One that has connected. Resolves when it takes part, or has been turned away, which the log tells. */
  async accept(connection: Socket): Promise<void> {
    await this.#admit(this.#connect(connection));
  }

  /** Those of the node's directory. One that cannot be started is told in the log and left out. */
  async start(installed: readonly Installed[]): Promise<void> {
    for (const one of installed) {
      const name = `${one.index}-${one.base}`;
      try {
        const process = this.#processes.use(await launch(one, this.#options.log));
        const plugin = this.#connect(process.connection, one);
        // Without its connection it serves nobody.
        void plugin.closed.then(() => process[Symbol.asyncDispose]());
        await this.#admit(plugin);
      } catch (error) {
        this.#options.log.warn({ plugin: name, err: error }, "the plugin could not be started");
      }
    }
  }

  async runPodSandbox(pod: PodSandbox): Promise<void> {
    await this.#tell(Event.RUN_POD_SANDBOX, method.runPodSandbox, { pod });
  }

  async updatePodSandbox(
    pod: PodSandbox,
    overhead: LinuxResources | undefined,
    resources: LinuxResources | undefined,
  ): Promise<void> {
    const request = {
      pod,
      ...(overhead && { overheadLinuxResources: overhead }),
      ...(resources && { linuxResources: resources }),
    };
    await this.#turn(async () => {
      for (const plugin of this.#plugins) await plugin.tell(Event.UPDATE_POD_SANDBOX, method.updatePodSandbox, request);
    });
  }

  async postUpdatePodSandbox(pod: PodSandbox): Promise<void> {
    await this.#tell(Event.POST_UPDATE_POD_SANDBOX, method.postUpdatePodSandbox, { pod });
  }

  async stopPodSandbox(pod: PodSandbox): Promise<void> {
    await this.#tell(Event.STOP_POD_SANDBOX, method.stopPodSandbox, { pod });
  }

  async removePodSandbox(pod: PodSandbox): Promise<void> {
    await this.#tell(Event.REMOVE_POD_SANDBOX, method.removePodSandbox, { pod });
  }

  /**
   * What plugins make of a container, and want updated of others; undefined: it stays as it is. Rejects with what a plugin refused, with
   * Conflict, or with what a validator says of it.
   */
  async createContainer({
    pod,
    container,
  }: PodAndContainer): Promise<{ adjustment: ContainerAdjustment | undefined; updates: ContainerUpdate[] }> {
    return await this.#turn(async () => {
      const owners = new Owners();
      const pristine = clone(ContainerSchema, container);
      const adjusting = new Adjusting(container, owners);
      const updates = new Updates(owners);
      const asked = [...this.#plugins];
      let isAdjusted = false;
      for (const plugin of asked) {
        const answer = await plugin.tell(Event.CREATE_CONTAINER, method.createContainer, { pod, container });
        if (!answer) continue;
        if (answer.adjust) adjusting.add(plugin.name, answer.adjust);
        isAdjusted ||= answer.adjust !== undefined;
        const own = answer.update.find(({ containerId }) => containerId === container.id);
        if (own) throw new Error(`plugin "${plugin.name}" asked update of "${container.id}" during creation`);
        updates.add(plugin.name, answer.update);
        this.#warnOfEvictions(plugin, answer.evict);
      }
      await this.#validate(
        create(ValidateContainerAdjustmentRequestSchema, {
          pod,
          container: pristine,
          adjust: adjusting.adjustment,
          update: updates.others,
          owners: owners.message,
          plugins: asked.map(({ base, index }) => ({ name: base, index })),
        }),
      );
      return { adjustment: isAdjusted ? adjusting.adjustment : undefined, updates: updates.others };
    });
  }

  async postCreateContainer(of: PodAndContainer): Promise<void> {
    await this.#tell(Event.POST_CREATE_CONTAINER, method.postCreateContainer, of);
  }

  async startContainer(of: PodAndContainer): Promise<void> {
    await this.#tell(Event.START_CONTAINER, method.startContainer, of);
  }

  async postStartContainer(of: PodAndContainer): Promise<void> {
    await this.#tell(Event.POST_START_CONTAINER, method.postStartContainer, of);
  }

  /** What the container's update becomes (undefined: what was asked for), and what is to be updated of others. */
  async updateContainer(
    { pod, container }: PodAndContainer,
    linuxResources: LinuxResources,
  ): Promise<{ own: LinuxResources | undefined; updates: ContainerUpdate[] }> {
    return await this.#turn(async () => {
      const updates = new Updates(new Owners(), { id: container.id, resources: linuxResources });
      for (const plugin of this.#plugins) {
        const request = { pod, container, linuxResources: updates.own ?? linuxResources };
        const answer = await plugin.tell(Event.UPDATE_CONTAINER, method.updateContainer, request);
        if (!answer) continue;
        updates.add(plugin.name, answer.update);
        this.#warnOfEvictions(plugin, answer.evict);
      }
      return { own: updates.own, updates: updates.others };
    });
  }

  async postUpdateContainer(of: PodAndContainer): Promise<void> {
    await this.#tell(Event.POST_UPDATE_CONTAINER, method.postUpdateContainer, of);
  }

  /** What is to be updated of others, now that it has ended. */
  async stopContainer(of: PodAndContainer): Promise<ContainerUpdate[]> {
    return await this.#turn(async () => {
      const updates = new Updates(new Owners());
      for (const plugin of this.#plugins) {
        const answer = await plugin.tell(Event.STOP_CONTAINER, method.stopContainer, of);
        if (answer) updates.add(plugin.name, answer.update);
      }
      return updates.others;
    });
  }

  async removeContainer(of: PodAndContainer): Promise<void> {
    await this.#tell(Event.REMOVE_CONTAINER, method.removeContainer, of);
  }

  /** Those that could not be carried out, and whose plugin wants to know: the log has why. */
  async apply(updates: readonly ContainerUpdate[], plugin = ""): Promise<ContainerUpdate[]> {
    const failed: ContainerUpdate[] = [];
    for (const update of updates) {
      try {
        await this.#options.host.update(update);
      } catch (error) {
        if (update.ignoreFailure) continue;
        failed.push(update);
        const fields = { container: update.containerId, err: error, ...(plugin !== "" && { plugin }) };
        this.#options.log.warn(fields, "what a plugin wanted updated of a container could not be");
      }
    }
    return failed;
  }

  /** Plugins are told, and those that were started here are ended. */
  async [Symbol.asyncDispose](): Promise<void> {
    const told = [...this.#plugins].map((plugin) => plugin.ask(method.shutdown, {}));
    // Who is gone, or does not care, needs no telling.
    await Promise.allSettled(told);
    for (const plugin of this.#connected) plugin.close();
    await this.#processes.disposeAsync();
  }

  #connect(connection: Socket, launched?: Installed): Plugin {
    const { settings, log } = this.#options;
    const onUpdate: PluginOptions["onUpdate"] = (from, updates) => this.apply(updates, from.name);
    const plugin = new Plugin(connection, { settings, log, onUpdate, ...(launched && { launched }) });
    this.#connected.add(plugin);
    void plugin.closed.then(() => {
      this.#connected.delete(plugin);
      if (!this.#plugins.includes(plugin)) return;
      this.#plugins = this.#plugins.filter((other) => other !== plugin);
      log.info({ plugin: plugin.name }, "the plugin's connection has ended");
    });
    return plugin;
  }

  async #admit(plugin: Plugin): Promise<void> {
    const { host, log } = this.#options;
    try {
      await plugin.start();
      const updates = await host.quietly(() =>
        this.#turn(async () => {
          const wanted = await synchronize(plugin, await host.known());
          if (plugin.isClosed) throw new Error("the connection ended");
          this.#plugins = [...this.#plugins, plugin].sort((a, b) => Number(a.index) - Number(b.index));
          return wanted;
        }),
      );
      log.info({ plugin: plugin.name, order: this.#plugins.map(({ name }) => name) }, "the plugin takes part");
      await this.apply(updates, plugin.name);
    } catch (error) {
      log.error({ plugin: plugin.name, err: error }, "the plugin does not take part");
      plugin.close();
    }
  }

  async #tell<I extends DescMessage, O extends DescMessage>(
    event: Event,
    call: DescMethodUnary<I, O>,
    request: MessageInitShape<I> & Partial<PodAndContainer>,
  ): Promise<void> {
    const { pod, container } = request;
    await this.#turn(async () => {
      for (const plugin of this.#plugins) await plugin.tell(event, call, request, { pod, container });
    });
  }

  async #validate(request: ValidateContainerAdjustmentRequest): Promise<void> {
    const { validator } = this.#options;
    const event = Event.VALIDATE_CONTAINER_ADJUSTMENT;
    const plugins = this.#plugins.filter((plugin) => plugin.wants(event) && !plugin.isClosed);
    const answers = plugins.map(async (plugin) => {
      const answer = await plugin.tell(event, method.validateContainerAdjustment, request);
      // Nobody can say that it is allowed.
      if (!answer) throw new Error(`validator plugin ${plugin.name} failed`);
      if (!answer.reject) return;
      const reason = answer.reason || "unknown rejection reason";
      throw new Error(`validator "${plugin.name}" rejected container adjustment, reason: ${reason}`);
    });
    if (validator) answers.push(validate(validator, request));
    for (const outcome of await Promise.allSettled(answers)) if (outcome.status === "rejected") throw outcome.reason;
  }

  #warnOfEvictions(plugin: Plugin, evictions: readonly { readonly containerId: string }[]): void {
    if (evictions.length === 0) return;
    const containers = evictions.map(({ containerId }) => containerId);
    this.#options.log.warn(
      { plugin: plugin.name, containers },
      "the plugin asked for evictions, which no runtime carries out",
    );
  }

  /** Plugins see one thing happen at a time. */
  async #turn<T>(work: () => Promise<T>): Promise<T> {
    const turn = this.#last.then(work);
    this.#last = turn.catch(() => undefined);
    return await turn;
  }
}
