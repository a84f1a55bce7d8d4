/** A runtime with its door in a directory of the test's own, and what it was asked to do. */
import { mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import type { TestContext } from "node:test";
import { create } from "@bufbuild/protobuf";
import { ContainerSchema, type ContainerUpdate, PodSandboxSchema } from "@berth/spec/nri";
import { Nri, type NriHost, type PodAndContainer, type ValidatorSettings } from "@berth/nri";
import { Door, installedPlugins } from "@berth/nri/door";
import { TestPlugin, type TestPluginOptions } from "@berth/nri/testing";

export interface RigOptions {
  readonly host?: Partial<NriHost>;
  readonly validator?: ValidatorSettings;
}

export class Rig {
  readonly nri: Nri;
  readonly directory: string;
  readonly socket: string;
  readonly said: string[] = [];
  readonly updates: ContainerUpdate[] = [];
  /** Of every connection: settles when it takes part or was turned away. */
  readonly admitted: Promise<void>[] = [];
  /** Those that are told to be late find less patience. */
  patienceMs = { registration: 60_000, request: 60_000 };
  readonly #t: TestContext;

  private constructor(t: TestContext, directory: string, options: RigOptions) {
    this.#t = t;
    this.directory = directory;
    this.socket = join(directory, "nri.sock");
    const say =
      (level: string) =>
      (fields: object, message: string): void =>
        void this.said.push(`${level}: ${message}${"err" in fields ? `: ${(fields.err as Error).message}` : ""}`);
    const patience = (): Rig["patienceMs"] => this.patienceMs;
    this.nri = new Nri({
      settings: {
        runtimeName: "berth",
        runtimeVersion: "0.1.0",
        get registrationTimeoutMs() {
          return patience().registration;
        },
        get requestTimeoutMs() {
          return patience().request;
        },
      },
      validator: options.validator,
      host: {
        known: () => Promise.resolve({ pods: [], containers: [] }),
        update: (update) => Promise.resolve(void this.updates.push(update)),
        quietly: (work) => work(),
        ...options.host,
      },
      log: { info: say("info"), warn: say("warn"), error: say("error") },
    });
  }

  static async open(t: TestContext, options: RigOptions = {}): Promise<Rig> {
    const rig = new Rig(t, await mkdtemp(join(tmpdir(), "nri-")), options);
    const door = await Door.open(rig.socket, (connection) => void rig.admitted.push(rig.nri.accept(connection)));
    t.after(async () => {
      await rig.nri[Symbol.asyncDispose]();
      await door[Symbol.asyncDispose]();
      await rm(rig.directory, { recursive: true });
    });
    return rig;
  }

  /** Takes part. */
  async plugin(options: TestPluginOptions = {}): Promise<TestPlugin> {
    const plugin = await TestPlugin.connect(this.socket, options);
    this.#t.after(() => plugin[Symbol.asyncDispose]());
    await Promise.all(this.admitted);
    return plugin;
  }

  async start(directory: string, configs: string): Promise<void> {
    await this.nri.start(await installedPlugins(directory, configs));
  }
}

export const POD = create(PodSandboxSchema, { id: "pod", name: "web", namespace: "default", uid: "u1" });

export const container = (more: Parameters<typeof create<typeof ContainerSchema>>[1] = {}): PodAndContainer => ({
  pod: POD,
  container: create(ContainerSchema, { id: "one", podSandboxId: "pod", name: "app", ...more }),
});
