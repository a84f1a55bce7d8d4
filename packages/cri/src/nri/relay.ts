/** What the CRI's verbs ask and tell the node's NRI plugins, at the moments at which containerd does. */
import { status } from "@grpc/grpc-js";
import { adjustSpec, Nri, type NriHost, type PodAndContainer } from "@berth/nri";
import type { Installed } from "@berth/nri/door";
import { create } from "@bufbuild/protobuf";
import { cri } from "@berth/spec";
import type * as nri from "@berth/spec/nri";
import type { oci } from "@berth/spec/oci";
import type { Socket } from "node:net";
import { cgroupAt } from "../cgroups.ts";
import { injectNamed } from "../container/cdi.ts";
import { checkPassesOn } from "../container/mounts.ts";
import { limitsHugePages } from "../container/resources.ts";
import { specOf } from "../container/running.ts";
import { changeResources, mergeResources } from "../container/update.ts";
import type { CriContext } from "../context.ts";
import { CriError } from "../errors.ts";
import type { Progress } from "../progress.ts";
import type { Container, Sandbox } from "../store/records.ts";
import { containerMessage, criResources, podMessage, resourcesMessage } from "./messages.ts";
import type { NriSettings } from "./plugins.ts";

export class Relay implements AsyncDisposable {
  readonly #context: CriContext;
  readonly #nri: Nri;
  readonly #ended = new AbortController();

  constructor(context: CriContext, settings: NriSettings) {
    this.#context = context;
    this.#nri = new Nri({
      settings: {
        runtimeName: "berth",
        runtimeVersion: context.config.version,
        registrationTimeoutMs: settings.pluginRegistrationTimeoutMs,
        requestTimeoutMs: settings.pluginRequestTimeoutMs,
      },
      validator: settings.defaultValidator,
      host: hostOf(context, this.#ended.signal),
      log: context.log,
    });
  }

  get isActive(): boolean {
    return this.#nri.isActive;
  }

  accept(connection: Socket): Promise<void> {
    return this.#nri.accept(connection);
  }

  start(installed: readonly Installed[]): Promise<void> {
    return this.#nri.start(installed);
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.#ended.abort(new Error("berthd stops"));
    await this.#nri[Symbol.asyncDispose]();
  }

  /** The pod is there but for being ready. A failure takes it back, and plugins are told of that. */
  async runPodSandbox(progress: Progress, sandbox: Sandbox): Promise<void> {
    progress.step("ask the NRI plugins");
    progress.onFailure("tell the NRI plugins that there is no pod", async () => {
      await this.stopPodSandbox(sandbox);
      await this.removePodSandbox(sandbox);
    });
    await asked("NRI RunPodSandbox failed", this.#nri.runPodSandbox(this.#pod(sandbox)));
  }

  async updatePodSandbox(
    sandbox: Sandbox,
    overhead: cri.LinuxContainerResources | undefined,
    resources: cri.LinuxContainerResources | undefined,
  ): Promise<void> {
    const told = [overhead && resourcesMessage(overhead), resources && resourcesMessage(resources)] as const;
    await asked("NRI sandbox update failed", this.#nri.updatePodSandbox(this.#pod(sandbox), ...told));
  }

  async postUpdatePodSandbox(sandbox: Sandbox): Promise<void> {
    await this.#told(sandbox.record.id, this.#nri.postUpdatePodSandbox(this.#pod(sandbox)));
  }

  async stopPodSandbox(sandbox: Sandbox): Promise<void> {
    if (sandbox.toldPlugins !== undefined) return;
    sandbox.toldPlugins = "stopped";
    await this.#told(sandbox.record.id, this.#nri.stopPodSandbox(this.#pod(sandbox)));
  }

  async removePodSandbox(sandbox: Sandbox): Promise<void> {
    if (sandbox.toldPlugins === "removed") return;
    sandbox.toldPlugins = "removed";
    await this.#told(sandbox.record.id, this.#nri.removePodSandbox(this.#pod(sandbox)));
  }

  /** What plugins make of the configuration of a container that is being made, and of its record. */
  async adjustContainer(progress: Progress, sandbox: Sandbox, container: Container, spec: oci.Spec): Promise<oci.Spec> {
    const { record } = container;
    const pod = this.#pod(sandbox);
    progress.step("ask the NRI plugins");
    progress.onFailure("tell the NRI plugins that there is no container", async () => {
      container.spec ??= spec;
      await this.stopContainer(container);
      await this.removeContainer(container);
    });
    const asking = this.#nri.createContainer({ pod, container: containerMessage(record, spec) });
    const failure = "failed to get NRI adjustment for container";
    const { adjustment, updates } = await asked(failure, asking);
    await this.#nri.apply(updates);
    if (!adjustment) return spec;
    this.#adjustRecord(sandbox, container, adjustment);
    return await asked("failed to NRI-adjust container", this.#adjustSpec(spec, adjustment));
  }

  async postCreateContainer(container: Container): Promise<void> {
    await this.#tell(container, (of) => this.#nri.postCreateContainer(of));
  }

  async startContainer(container: Container): Promise<void> {
    const of = await this.#both(container);
    await asked("NRI container start failed", this.#nri.startContainer(of));
  }

  async postStartContainer(container: Container): Promise<void> {
    await this.#tell(container, (of) => this.#nri.postStartContainer(of));
  }

  /** What is to be done in place of `linux`; undefined: that. */
  async updateContainer(
    container: Container,
    linux: cri.LinuxContainerResources,
  ): Promise<cri.LinuxContainerResources | undefined> {
    const of = await this.#both(container);
    const asking = this.#nri.updateContainer(of, resourcesMessage(linux));
    const { own, updates } = await asked("NRI container update failed", asking);
    await this.#nri.apply(updates);
    if (!own) return undefined;
    const { oomScoreAdj, memorySwapLimitInBytes } = linux;
    const changed = criResources(own);
    // Of these plugins are told nothing.
    changed.memorySwapLimitInBytes ||= memorySwapLimitInBytes;
    return create(cri.LinuxContainerResourcesSchema, { ...changed, oomScoreAdj });
  }

  async postUpdateContainer(container: Container): Promise<void> {
    await this.#tell(container, (of) => this.#nri.postUpdateContainer(of));
  }

  /** It has ended. What plugins want updated of others then is done when it can be: whoever calls may hold a lock. */
  async stopContainer(container: Container): Promise<void> {
    if (container.toldPlugins !== undefined) return;
    container.toldPlugins = "stopped";
    await this.#tell(container, async (of) => void this.#nri.apply(await this.#nri.stopContainer(of)));
  }

  async removeContainer(container: Container): Promise<void> {
    if (container.toldPlugins === "removed") return;
    container.toldPlugins = "removed";
    await this.#tell(container, (of) => this.#nri.removeContainer(of));
  }

  #adjustRecord(sandbox: Sandbox, container: Container, { linux }: nri.ContainerAdjustment): void {
    const { record } = container;
    if (linux?.resources) record.resources = mergeResources(record.resources, criResources(linux.resources));
    if (linux === undefined || linux.cgroupsPath === "") return;
    Object.assign(record, cgroupAt(sandbox.record, record.id, linux.cgroupsPath));
    // Before it is made: what a crash leaves is looked for there.
    this.#context.containers.save(container);
  }

  async #adjustSpec(spec: oci.Spec, adjustment: nri.ContainerAdjustment): Promise<oci.Spec> {
    const context = this.#context;
    return await adjustSpec(spec, adjustment, {
      injectDevices: (to, names) => injectNamed(context, to, names),
      checkPropagation: (source, propagation) => checkPassesOn(source, propagation, "adjust.mounts"),
      checkResources: (resources) =>
        limitsHugePages(context) ? resources : { ...resources, hugepageLimits: undefined },
    });
  }

  #pod(sandbox: Sandbox): nri.PodSandbox {
    return podMessage(this.#context, sandbox);
  }

  async #both(container: Container): Promise<PodAndContainer> {
    const { record } = container;
    const sandbox = this.#context.sandboxes.get(record.sandboxId);
    return { pod: this.#pod(sandbox), container: containerMessage(record, await specOf(this.#context, container)) };
  }

  /** What has happened happened: a plugin's error is told in the log. */
  async #tell(container: Container, tell: (of: PodAndContainer) => Promise<void>): Promise<void> {
    await this.#told(container.record.id, this.#both(container).then(tell));
  }

  async #told(id: string, telling: Promise<void>): Promise<void> {
    try {
      await telling;
    } catch (error) {
      this.#context.log.error({ id, err: error }, "an NRI plugin could not be told");
    }
  }
}

/** A plugin's word, or what cannot be done of it, is the call's failure. */
async function asked<T>(what: string, answer: Promise<T>): Promise<T> {
  try {
    return await answer;
  } catch (error) {
    const code = error instanceof CriError ? error.code : status.UNKNOWN;
    throw new CriError(code, `${what}: ${(error as Error).message}`, { cause: error });
  }
}

function hostOf(context: CriContext, signal: AbortSignal): NriHost {
  return {
    known: async () => {
      const alive = context.containers
        .values()
        .filter(({ record }) => ["created", "starting", "running"].includes(record.phase));
      return {
        pods: context.sandboxes
          .values()
          .filter(({ record }) => record.phase === "ready" || record.phase === "notready")
          .map((sandbox) => podMessage(context, sandbox)),
        containers: await Promise.all(
          alive.map(async (container) => containerMessage(container.record, await specOf(context, container))),
        ),
      };
    },
    update: async ({ containerId, linux }) => {
      const container = context.containers.find(containerId);
      if (!container || !linux?.resources) return;
      await changeResources(context, container, criResources(linux.resources), signal);
    },
    quietly: (work) => context.nri.gate.alone(work),
  };
}
