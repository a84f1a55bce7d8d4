/** berthd for tests: pods, containers and images in memory, on a socket in a directory of its own. */
import { randomBytes } from "node:crypto";
import { mkdirSync, mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { dirname, join } from "node:path";
import { Server, ServerCredentials, status } from "@grpc/grpc-js";
import { berth, cri } from "@berth/spec";
import { RpcError, serve } from "./grpc.ts";
import { diskUsage, prune } from "./storage.ts";
import { FakeProcess, StartError } from "./process.ts";
import { type Peer, streamServer, type StreamServer } from "./streams.ts";

const { ContainerState, PodSandboxState } = cri;

export interface FakePod {
  readonly id: string;
  readonly config: cri.PodSandboxConfig;
  readonly handler: string;
  readonly createdAt: bigint;
  state: cri.PodSandboxState;
}

export interface FakeContainer {
  readonly id: string;
  readonly podId: string;
  readonly config: cri.ContainerConfig;
  readonly logPath: string;
  readonly process: FakeProcess;
  readonly createdAt: bigint;
  state: cri.ContainerState;
  startedAt: bigint;
  finishedAt: bigint;
  exitCode: number;
}

export interface FakeImage {
  readonly id: string;
  readonly tags: string[];
  readonly cmd: readonly string[];
}

const now = (): bigint => BigInt(Date.now()) * 1_000_000n;
const newId = (): string => randomBytes(32).toString("hex");

export class FakeDaemon implements AsyncDisposable {
  readonly directory = mkdtempSync(join(tmpdir(), "berth-cli-"));
  readonly socket = join(this.directory, "berth.sock");
  readonly pods = new Map<string, FakePod>();
  readonly containers = new Map<string, FakeContainer>();
  readonly images = new Map<string, FakeImage>();
  /** Names of the calls, in order. */
  readonly calls: string[] = [];
  /** Call name → what it fails with, once. */
  readonly failures = new Map<string, RpcError>();
  /** What Pull reports before the image is there; a promise holds it up. */
  pullSteps: (readonly [id: string, status: string, done: bigint, total: bigint] | Promise<void>)[] = [];
  pullRequests: berth.PullRequest[] = [];
  /** Requests of the other calls that reach registries. */
  readonly registryRequests: unknown[] = [];
  /** Whether fsck finds something. */
  damaged = false;
  imported = { name: "", bytes: 0 };
  /** Answers in their order; the last one stays. */
  stats: cri.ContainerStats[][] = [];
  readonly #server = new Server();
  #streams!: StreamServer;
  readonly #tokens = new Map<string, (peer: Peer) => void>();

  static async start(): Promise<FakeDaemon> {
    const daemon = new FakeDaemon();
    daemon.addImage("docker.io/library/box:latest", ["echo", "from", "image"]);
    daemon.#streams = await streamServer((peer, path) => {
      const handle = daemon.#tokens.get(path);
      daemon.#tokens.delete(path);
      if (handle) handle(peer);
      else peer.close(1008);
    });
    daemon.#serveRuntime();
    daemon.#serveImages();
    daemon.#serveBerth();
    const { promise, resolve, reject } = Promise.withResolvers<void>();
    daemon.#server.bindAsync(`unix:${daemon.socket}`, ServerCredentials.createInsecure(), (error) =>
      error ? reject(error) : resolve(),
    );
    await promise;
    return daemon;
  }

  async [Symbol.asyncDispose](): Promise<void> {
    for (const { process } of this.containers.values()) process.end(0);
    await this.#streams.close();
    this.#server.forceShutdown();
    rmSync(this.directory, { recursive: true, force: true });
  }

  addImage(tag: string, cmd: readonly string[]): FakeImage {
    const image = { id: `sha256:${newId()}`, tags: [tag], cmd };
    this.images.set(image.id, image);
    return image;
  }

  /** A container as another client (the kubelet, crictl) makes one. */
  addContainer(init: {
    readonly id?: string;
    readonly name: string;
    readonly labels?: Record<string, string>;
    readonly createdAt?: bigint;
  }): FakeContainer {
    const id = init.id ?? newId();
    const config = {
      $typeName: "runtime.v1.ContainerConfig",
      metadata: { name: init.name, attempt: 0 },
      labels: init.labels ?? {},
      annotations: {},
      image: { image: "docker.io/library/box:latest" },
    } as unknown as cri.ContainerConfig;
    const container: FakeContainer = {
      id,
      podId: newId(),
      config,
      logPath: "",
      process: new FakeProcess(["sleep"], ""),
      createdAt: init.createdAt ?? now(),
      state: ContainerState.CONTAINER_RUNNING,
      startedAt: now(),
      finishedAt: 0n,
      exitCode: 0,
    };
    this.containers.set(id, container);
    return container;
  }

  findImage(name: string): FakeImage | undefined {
    return (
      this.images.get(name) ??
      [...this.images.values()].find(
        ({ id, tags }) =>
          tags.some((tag) =>
            [
              tag,
              tag.replace("docker.io/library/", ""),
              tag.replace("docker.io/library/", "").replace(":latest", ""),
            ].includes(name),
          ) || id === `sha256:${name}`,
      )
    );
  }

  #enter(call: string): void {
    this.calls.push(call);
    const failure = this.failures.get(call);
    this.failures.delete(call);
    if (failure) throw failure;
  }

  #container(id: string): FakeContainer {
    const container = this.containers.get(id);
    if (!container) throw new RpcError(status.NOT_FOUND, `container "${id}" not found`);
    return container;
  }

  #url(handle: (peer: Peer) => void): string {
    const path = `/stream/${newId()}`;
    this.#tokens.set(path, handle);
    return `${this.#streams.base}${path}`;
  }

  #serveRuntime(): void {
    serve(this.#server, cri.RuntimeService, {
      version: () => ({ version: "0.1.0", runtimeName: "berth", runtimeVersion: "9.9.9", runtimeApiVersion: "v1" }),
      status: () => ({
        status: {
          conditions: [
            { type: "RuntimeReady", status: true },
            { type: "NetworkReady", status: !this.failures.delete("NetworkReady"), reason: "", message: "" },
          ],
        },
      }),
      runPodSandbox: (request) => this.#runPod(request),
      stopPodSandbox: ({ podSandboxId }) => {
        this.#enter("StopPodSandbox");
        const pod = this.pods.get(podSandboxId);
        if (pod) pod.state = PodSandboxState.SANDBOX_NOTREADY;
        for (const container of this.containers.values())
          if (container.podId === podSandboxId) container.process.stop(0n);
        return {};
      },
      removePodSandbox: ({ podSandboxId }) => {
        this.#enter("RemovePodSandbox");
        this.pods.delete(podSandboxId);
        for (const { id, podId } of this.containers.values()) if (podId === podSandboxId) this.containers.delete(id);
        return {};
      },
      listPodSandbox: () => ({ items: [...this.pods.values()].map(podItem) }),
      podSandboxStatus: ({ podSandboxId, verbose }) => {
        const pod = this.pods.get(podSandboxId);
        if (!pod) throw new RpcError(status.NOT_FOUND, `pod sandbox "${podSandboxId}" not found`);
        return {
          status: { ...podItem(pod), network: { ip: "10.88.0.7", additionalIps: [{ ip: "fd00::7" }] } },
          info: verbose ? { info: '{"netns":"/run/netns/x"}' } : {},
        };
      },
      createContainer: (request) => this.#create(request),
      startContainer: ({ containerId }) => this.#start(containerId),
      stopContainer: ({ containerId, timeout }) => {
        this.#enter(`StopContainer ${timeout}`);
        this.#container(containerId).process.stop(timeout);
        return {};
      },
      checkpointContainer: ({ containerId, location }) => {
        this.#enter("CheckpointContainer");
        writeFileSync(location, this.#container(containerId).id);
        return {};
      },
      removeContainer: ({ containerId }) => {
        this.#enter("RemoveContainer");
        this.containers.delete(containerId);
        return {};
      },
      listContainers: ({ filter }) => ({
        containers: [...this.containers.values()]
          .filter(
            ({ podId, state }) =>
              (!filter?.podSandboxId || podId === filter.podSandboxId) &&
              (!filter?.state || filter.state.state === state),
          )
          .map((container) => this.#item(container)),
      }),
      containerStatus: ({ containerId, verbose }) => {
        this.#enter("ContainerStatus");
        const container = this.#container(containerId);
        return {
          status: this.#status(container),
          info: verbose ? { info: '{"pid":42,"runtimeSpec":{"ociVersion":"1.3.0"}}', note: "plain text" } : {},
        };
      },
      exec: (request) => {
        this.#enter("Exec");
        return { url: this.#url((peer) => exec(peer, request)) };
      },
      attach: ({ containerId }) => {
        this.#enter("Attach");
        const { process } = this.#container(containerId);
        return { url: this.#url((peer) => process.attach(peer)) };
      },
      listContainerStats: () => {
        const [stats = []] = this.stats.length > 1 ? this.stats.splice(0, 1) : this.stats;
        return { stats };
      },
    });
  }

  #runPod({ config, runtimeHandler }: cri.RunPodSandboxRequest): { podSandboxId: string } {
    this.#enter("RunPodSandbox");
    if (!config) throw new RpcError(status.INVALID_ARGUMENT, "config: missing");
    const key = (pod: cri.PodSandboxConfig): string =>
      `${pod.metadata?.namespace}/${pod.metadata?.name}/${pod.metadata?.uid}/${pod.metadata?.attempt}`;
    const holder = [...this.pods.values()].find((pod) => key(pod.config) === key(config));
    if (holder)
      throw new RpcError(status.ALREADY_EXISTS, `pod sandbox name "${key(config)}" is reserved for "${holder.id}"`);
    const id = newId();
    this.pods.set(id, { id, config, handler: runtimeHandler, createdAt: now(), state: PodSandboxState.SANDBOX_READY });
    return { podSandboxId: id };
  }

  #create({ podSandboxId, config }: cri.CreateContainerRequest): { containerId: string } {
    this.#enter("CreateContainer");
    const pod = this.pods.get(podSandboxId);
    const image = this.findImage(config?.image?.image ?? "");
    if (!pod || !config || !image) throw new RpcError(status.NOT_FOUND, "no such pod or image");
    const logPath = `${pod.config.logDirectory}/${config.logPath}`;
    mkdirSync(dirname(logPath), { recursive: true });
    const id = newId();
    const given = [...config.command, ...config.args];
    const process = new FakeProcess(given.length > 0 ? given : image.cmd, logPath);
    this.containers.set(id, {
      id,
      podId: podSandboxId,
      config,
      logPath,
      process,
      createdAt: now(),
      state: ContainerState.CONTAINER_CREATED,
      startedAt: 0n,
      finishedAt: 0n,
      exitCode: 0,
    });
    return { containerId: id };
  }

  #start(containerId: string): object {
    this.#enter("StartContainer");
    const container = this.#container(containerId);
    container.state = ContainerState.CONTAINER_RUNNING;
    container.startedAt = now();
    void container.process.exited.then((code) =>
      Object.assign(container, { state: ContainerState.CONTAINER_EXITED, finishedAt: now(), exitCode: code }),
    );
    try {
      container.process.start();
    } catch (error) {
      if (error instanceof StartError) throw new RpcError(status.UNKNOWN, error.message);
      throw error;
    }
    return {};
  }

  #item({ id, podId, config, state, createdAt }: FakeContainer) {
    const image = this.findImage(config.image?.image ?? "");
    return {
      id,
      podSandboxId: podId,
      metadata: { name: config.metadata?.name ?? "", attempt: 0 },
      image: { image: image?.tags[0] ?? "", userSpecifiedImage: config.image?.userSpecifiedImage ?? "" },
      imageRef: image?.id ?? "",
      imageId: image?.id ?? "",
      state,
      createdAt,
      labels: config.labels,
      annotations: config.annotations,
    };
  }

  #status(container: FakeContainer) {
    const { startedAt, finishedAt, exitCode, logPath } = container;
    const { podSandboxId: _pod, ...item } = this.#item(container);
    return { ...item, startedAt, finishedAt, exitCode, logPath };
  }

  #serveImages(): void {
    const item = ({ id, tags }: FakeImage) => ({
      id,
      repoTags: tags,
      repoDigests: tags.map((tag) => `${tag.replace(/:[^:/]*$/, "")}@sha256:${"d".repeat(64)}`),
      size: 4_321_000n,
    });
    serve(this.#server, cri.ImageService, {
      listImages: () => ({ images: [...this.images.values()].map(item) }),
      imageStatus: ({ image, verbose }) => {
        const found = this.findImage(image?.image ?? "");
        return found
          ? {
              image: item(found),
              info: verbose ? { info: JSON.stringify({ imageSpec: { config: { Cmd: found.cmd } } }) } : {},
            }
          : {};
      },
      removeImage: ({ image }) => {
        this.#enter("RemoveImage");
        const found = this.findImage(image?.image ?? "");
        if (found) this.images.delete(found.id);
        return {};
      },
    });
  }

  #serveBerth(): void {
    serve(this.#server, berth.Berth, {
      info: () => ({
        version: "9.9.9",
        root: this.directory,
        logRoot: join(this.directory, "logs"),
        cgroupMode: "hybrid",
        pid: 1234,
        pods: this.pods.size,
        handlers: ["runc"],
        warnings: ["no swap accounting"],
      }),
      pull: (request, cancelled) => this.#pull(request, cancelled),
      watchPulls: async function* () {
        const startedAt = 1_767_323_045_000_000_000n;
        const event = (id: string, layer: string, doneBytes: bigint) => ({
          reference: "r.example/app:1",
          startedAt,
          progress: { id, status: layer, doneBytes, totalBytes: 1000n },
        });
        yield await Promise.resolve(event("manifest", "done", 0n));
        yield event("sha256:1", "downloading", 500n);
        yield event("sha256:2", "done", 1000n);
      },
      push: (request) => this.#sent("Push", request, request.image),
      copy: (request) => this.#sent("Copy", request, request.destination),
      tag: (request) => {
        this.#enter("Tag");
        const image = this.findImage(request.image);
        if (!image) throw new RpcError(status.NOT_FOUND, `no such image: ${request.image}`);
        image.tags.push(request.name);
        return { imageId: image.id };
      },
      listTags: (request) => {
        this.registryRequests.push(request);
        return { tags: ["1.0", "latest"] };
      },
      listReferrers: (request) => {
        this.registryRequests.push(request);
        const digest = `sha256:${"a".repeat(64)}`;
        return {
          referrers: [{ digest, mediaType: "m", artifactType: "test/sig", size: 1234n, annotations: { a: "b" } }],
        };
      },
      login: (request) => {
        this.registryRequests.push(request);
        if (request.auth?.password !== "right")
          throw new RpcError(status.PERMISSION_DENIED, "does not take this login");
        return {};
      },
      import: async (requests) => {
        for await (const { name, chunk } of requests) {
          if (name !== "") this.imported.name = name;
          this.imported.bytes += chunk.length;
        }
        return { images: [{ id: `sha256:${newId()}`, references: ["docker.io/library/loaded:latest"] }] };
      },
      save: async function* ({ images }) {
        for (const image of images) {
          await Promise.resolve();
          yield { chunk: Buffer.from(`${image}\n`) };
        }
      },
      diskUsage: ({ verbose }) => diskUsage(this, verbose),
      pruneImages: (request) => {
        this.registryRequests.push(request);
        return prune(this, request.all);
      },
      check: (request) => this.#check(request),
      plan: () => ({
        orders: [{ where: "stage", order: "clone", words: "make a process", because: "linux.namespaces" }],
      }),
    });
  }

  async *#check({ repair }: berth.CheckRequest) {
    yield await Promise.resolve({ checking: "sha256:1" });
    if (!this.damaged) return;
    yield { kind: "blob", id: "sha256:1", problem: "cannot be read", repair: repair ? "removed" : "" };
  }

  async *#sent(call: string, request: unknown, reference: string) {
    this.#enter(call);
    this.registryRequests.push(request);
    const digest = `sha256:${"d".repeat(64)}`;
    yield await Promise.resolve({ id: `sha256:${"1".repeat(64)}`, status: "done", doneBytes: 5n, totalBytes: 5n });
    yield { id: `sha256:${"2".repeat(64)}`, status: "mounted", doneBytes: 7n, totalBytes: 7n };
    yield { id: digest, status: "done", imageId: digest, reference };
  }

  async *#pull(request: berth.PullRequest, cancelled: AbortSignal) {
    this.#enter("Pull");
    this.pullRequests.push(request);
    for (const step of this.pullSteps) {
      if (step instanceof Promise) {
        const aborted = Promise.withResolvers<void>();
        cancelled.addEventListener("abort", () => aborted.resolve());
        await Promise.race([step, aborted.promise]);
        continue;
      }
      const [id, stepStatus, doneBytes, totalBytes] = step;
      yield { id, status: stepStatus, doneBytes, totalBytes };
    }
    const reference = `docker.io/library/${request.image}:latest`;
    const image = this.addImage(reference, ["echo", "pulled"]);
    yield { id: image.id, status: "done", imageId: image.id, reference };
  }
}

const podItem = ({ id, config, state, createdAt, handler }: FakePod) => ({
  id,
  metadata: {
    name: config.metadata?.name ?? "",
    uid: config.metadata?.uid ?? "",
    namespace: config.metadata?.namespace ?? "",
    attempt: 0,
  },
  state,
  createdAt,
  labels: config.labels,
  annotations: config.annotations,
  runtimeHandler: handler,
});

/** Programs of exec; they end with their connection. */
function exec(peer: Peer, { cmd }: cri.ExecRequest): void {
  const process = new FakeProcess(cmd, "", (each, code) => each.exit(code));
  process.attach(peer);
  try {
    process.start();
  } catch (error) {
    peer.finish({ status: "Failure", reason: "InternalError", code: 500, message: (error as Error).message });
  }
}
