/** The node's NRI plugins: where they come from, and whether there is one. What serves them is loaded with the first. */
import type { Socket } from "node:net";
import type { ValidatorSettings } from "@berth/nri";
import { Door, type Installed, installedPlugins } from "@berth/nri/door";
import type { CriContext } from "../context.ts";
import { Gate } from "./gate.ts";
import type { Relay } from "./relay.ts";

/** Names as in containerd's table io.containerd.nri.v1.nri. */
export interface NriSettings {
  readonly disable: boolean;
  readonly socketPath: string;
  readonly pluginPath: string;
  readonly pluginConfigPath: string;
  readonly pluginRegistrationTimeoutMs: number;
  readonly pluginRequestTimeoutMs: number;
  readonly disableConnections: boolean;
  /** Undefined: not enabled. */
  readonly defaultValidator: ValidatorSettings | undefined;
}

export class NriPlugins implements AsyncDisposable {
  readonly gate = new Gate();
  readonly #settings: NriSettings;
  #door: Door | undefined;
  #loading: Promise<Relay> | undefined;
  #relay: Relay | undefined;

  constructor(settings: NriSettings) {
    this.#settings = settings;
  }

  /** Undefined: nobody is to be asked or told. */
  get relay(): Relay | undefined {
    return this.#relay?.isActive === true ? this.#relay : undefined;
  }

  /** Pods and containers of an earlier daemon are known. What does not work of it is told in the log: pods run without. */
  async open(context: CriContext): Promise<void> {
    const { disable, disableConnections, defaultValidator, socketPath } = this.#settings;
    if (disable) return;
    const installed = await this.#installed(context);
    if (installed.length > 0 || defaultValidator) await (await this.#load(context)).start(installed);
    if (disableConnections) return;
    const admit = (connection: Socket): void => {
      // Its loss is seen by whoever serves it.
      connection.on("error", () => undefined);
      void this.#load(context).then((relay) => relay.accept(connection));
    };
    try {
      this.#door = await Door.open(socketPath, admit);
    } catch (error) {
      context.log.error({ err: error, socket: socketPath }, "NRI plugins cannot connect");
    }
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.#door?.[Symbol.asyncDispose]();
    const relay = await this.#loading;
    await relay?.[Symbol.asyncDispose]();
  }

  async #installed({ log }: CriContext): Promise<Installed[]> {
    const { pluginPath, pluginConfigPath } = this.#settings;
    try {
      return await installedPlugins(pluginPath, pluginConfigPath);
    } catch (error) {
      log.error({ err: error }, "no NRI plugin of the node's directory is started");
      return [];
    }
  }

  #load(context: CriContext): Promise<Relay> {
    return (this.#loading ??= import("./relay.ts").then(({ Relay }) => {
      this.#relay = new Relay(context, this.#settings);
      return this.#relay;
    }));
  }
}
