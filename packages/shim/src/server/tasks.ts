/** The Task service: containerd's calls, on this shim's containers. */
import type { MessageInitShape } from "@bufbuild/protobuf";
import type { Any, EmptySchema } from "@bufbuild/protobuf/wkt";
import type { oci } from "@berth/spec";
import { events, runcOptions, type task, taskTypes } from "@berth/spec/shim";
import { packMessage, unpackJson, unpackMessage } from "../any.ts";
import type { Handlers } from "@berth/ttrpc";
import { CODE, TtrpcError } from "@berth/ttrpc";
import { Container } from "./container.ts";
import type { ExecProcess } from "./exec.ts";
import type { Maker } from "./making.ts";
import type { TaskProcess } from "./process.ts";
import { type Publisher, timestamp } from "./publisher.ts";

const { Status } = taskTypes;
const VERSION = "2";

export interface TasksOptions {
  /** Connections are taken before it is there. */
  readonly maker: Promise<Maker>;
  readonly publisher: Publisher;
  readonly dirOf: (id: string) => string;
  readonly onShutdown: () => void;
}

type Service = Required<Handlers<typeof task.Task>>;
const empty: MessageInitShape<typeof EmptySchema> = {};

export class Tasks implements Service {
  readonly #containers = new Map<string, Container>();
  readonly #creating = new Set<string>();
  readonly #options: TasksOptions;

  constructor(options: TasksOptions) {
    this.#options = options;
  }

  readonly create: Service["create"] = async (request) => {
    const { id } = request;
    if (this.#containers.has(id) || this.#creating.has(id))
      throw new TtrpcError(CODE.alreadyExists, `container ${id} already exists`);
    this.#creating.add(id);
    try {
      const { maker, dirOf, publisher } = this.#options;
      const container = await Container.create(await maker, request, dirOf(id));
      this.#containers.set(id, container);
      const { bundle, rootfs, stdin, stdout, stderr, terminal } = request;
      publisher.publish("/tasks/create", events.TaskCreateSchema, {
        containerId: id,
        bundle,
        rootfs,
        io: { stdin, stdout, stderr, terminal },
        pid: container.pid,
      });
      void container.killedForMemory.then(() =>
        publisher.publish("/tasks/oom", events.TaskOOMSchema, { containerId: id }),
      );
      void this.#tellExit(container, id, id);
      return { pid: container.pid };
    } finally {
      this.#creating.delete(id);
    }
  };

  readonly start: Service["start"] = async ({ id, execId }) => {
    const container = this.#container(id);
    const { publisher } = this.#options;
    if (execId === "") {
      await container.start();
      publisher.publish("/tasks/start", events.TaskStartSchema, { containerId: id, pid: container.pid });
      return { pid: container.pid };
    }
    const exec = this.#exec(container, execId);
    await exec.start();
    publisher.publish("/tasks/exec-started", events.TaskExecStartedSchema, {
      containerId: id,
      execId,
      pid: exec.pid,
    });
    void this.#tellExit(exec, id, execId);
    return { pid: exec.pid };
  };

  readonly state: Service["state"] = ({ id, execId }) => {
    const { bundle } = this.#container(id);
    const found = this.#process(id, execId);
    const { pid, status, terminal, exit, paths } = found;
    const { stdin, stdout, stderr } = paths;
    return Promise.resolve({
      id,
      bundle,
      pid,
      status,
      stdin,
      stdout,
      stderr,
      terminal,
      execId,
      ...(exit && { exitStatus: exit.code, exitedAt: timestamp(exit.at) }),
    });
  };

  readonly exec: Service["exec"] = async (request) => {
    const { id, execId, spec } = request;
    const container = this.#container(id);
    if (!spec) throw new TtrpcError(CODE.invalidArgument, "spec: missing from the request");
    await container.exec(request, unpackJson<oci.Process>(spec));
    this.#options.publisher.publish("/tasks/exec-added", events.TaskExecAddedSchema, { containerId: id, execId });
    return empty;
  };

  readonly wait: Service["wait"] = async ({ id, execId }) => {
    const { code, at } = await this.#process(id, execId).ended;
    return { exitStatus: code, exitedAt: timestamp(at) };
  };

  readonly delete: Service["delete"] = async ({ id, execId }) => {
    const container = this.#container(id);
    const found = this.#process(id, execId);
    const { pid, exit, status } = found;
    if (!exit && status !== Status.CREATED)
      throw new TtrpcError(CODE.failedPrecondition, `process ${execId || id} is running: it cannot be deleted`);
    if (execId !== "") {
      await container.execs.get(execId)?.release();
      container.execs.delete(execId);
    } else {
      await container.release();
      this.#containers.delete(id);
    }
    const answer = { pid, exitStatus: exit?.code ?? 0, ...(exit && { exitedAt: timestamp(exit.at) }) };
    if (execId === "")
      this.#options.publisher.publish("/tasks/delete", events.TaskDeleteSchema, { containerId: id, id, ...answer });
    return answer;
  };

  readonly kill: Service["kill"] = async ({ id, execId, signal, all }) => {
    if (all && execId === "") await this.#container(id).killAll(signal);
    else await this.#process(id, execId).kill(signal);
    return empty;
  };

  readonly resizePty: Service["resizePty"] = async ({ id, execId, width, height }) => {
    await this.#process(id, execId).resize(width, height);
    return empty;
  };

  readonly closeIO: Service["closeIO"] = ({ id, execId, stdin }) => {
    if (stdin) this.#process(id, execId).streams.closeInput();
    return Promise.resolve(empty);
  };

  readonly pids: Service["pids"] = async ({ id }) => {
    const container = this.#container(id);
    const running = [...container.execs.values()].filter(({ status }) => status === Status.RUNNING);
    const execs = new Map(running.map((exec) => [exec.pid, exec.id]));
    // Processes that stand for those in a machine are in no cgroup of the container's.
    const pids = new Set([...(await container.pids()), ...execs.keys()]);
    return {
      processes: [...pids].map((pid) => {
        const execId = execs.get(pid);
        if (execId === undefined) return { pid };
        return { pid, info: packMessage(runcOptions.ProcessDetailsSchema, { execId }) };
      }),
    };
  };

  readonly pause: Service["pause"] = async ({ id }) => {
    await this.#container(id).pause();
    this.#options.publisher.publish("/tasks/paused", events.TaskPausedSchema, { containerId: id });
    return empty;
  };

  readonly resume: Service["resume"] = async ({ id }) => {
    await this.#container(id).resume();
    this.#options.publisher.publish("/tasks/resumed", events.TaskResumedSchema, { containerId: id });
    return empty;
  };

  readonly update: Service["update"] = async ({ id, resources }) => {
    if (resources) await this.#container(id).update(unpackJson<oci.LinuxResources>(resources));
    return empty;
  };

  readonly stats: Service["stats"] = async ({ id }) => ({ stats: await this.#container(id).stats() });

  readonly checkpoint: Service["checkpoint"] = async ({ id, path, options }) => {
    await this.#container(id).checkpoint(path, checkpointOptions(options));
    this.#options.publisher.publish("/tasks/checkpointed", events.TaskCheckpointedSchema, {
      containerId: id,
      checkpoint: path,
    });
    return empty;
  };

  readonly connect: Service["connect"] = ({ id }) =>
    Promise.resolve({ shimPid: process.pid, taskPid: this.#containers.get(id)?.pid ?? 0, version: VERSION });

  /** With other containers it stays. */
  readonly shutdown: Service["shutdown"] = ({ now }) => {
    if (now || this.#containers.size + this.#creating.size === 0) this.#options.onShutdown();
    return Promise.resolve(empty);
  };

  async #tellExit(found: TaskProcess, containerId: string, id: string): Promise<void> {
    const { code, at } = await found.ended;
    const { publisher } = this.#options;
    publisher.publish("/tasks/exit", events.TaskExitSchema, {
      containerId,
      id,
      pid: found.pid,
      exitStatus: code,
      exitedAt: timestamp(at),
    });
  }

  #container(id: string): Container {
    const container = this.#containers.get(id);
    if (!container) throw new TtrpcError(CODE.notFound, `container ${id} not created`);
    return container;
  }

  #exec(container: Container, execId: string): ExecProcess {
    const exec = container.execs.get(execId);
    if (!exec) throw new TtrpcError(CODE.notFound, `process ${execId} does not exist`);
    return exec;
  }

  #process(id: string, execId: string): TaskProcess {
    const container = this.#container(id);
    return execId === "" ? container : this.#exec(container, execId);
  }
}

const checkpointOptions = (any: Any | undefined): runcOptions.CheckpointOptions | undefined =>
  unpackMessage(any, runcOptions.CheckpointOptionsSchema);
