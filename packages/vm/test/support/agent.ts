/**
 * A double of Kata's agent, made from its interface: containers are processes of this host's, without any isolation. It keeps what it was
 * asked, and does to its processes what the agent does to a container's: streams by reading and writing, an exit code that is told once.
 */
import { type ChildProcess, spawn } from "node:child_process";
import { constants } from "node:os";
import type { Readable } from "node:stream";
import { agent, health } from "@berth/spec/kata";
import { CODE, type Handlers, TtrpcError, TtrpcServer } from "@berth/ttrpc";

type Service = Handlers<typeof agent.AgentService>;

class Process {
  readonly argv: readonly string[];
  readonly env: Readonly<Record<string, string>>;
  #child: ChildProcess | undefined;
  readonly #status = Promise.withResolvers<number>();
  /** A signal before it runs. */
  #killed: number | undefined;

  constructor(argv: readonly string[], env: readonly string[]) {
    this.argv = argv;
    this.env = Object.fromEntries(env.map((word) => word.split(/=(.*)/s).slice(0, 2) as [string, string]));
  }

  async start(): Promise<void> {
    // There are no root file systems here.
    const [program = "", ...rest] = this.argv[0] === "/pause" ? ["/bin/sleep", "1000"] : this.argv;
    const child = (this.#child = spawn(program, rest, { env: this.env, stdio: "pipe", detached: true }));
    child.stdin?.on("error", () => undefined);
    // Of a child that has exited Node throws away what nobody listens for.
    for (const stream of [child.stdout, child.stderr]) stream?.on("readable", () => undefined);
    child.once("exit", (code, signal) => this.#status.resolve(code ?? 128 + constants.signals[signal ?? "SIGKILL"]));
    const { promise, resolve, reject } = Promise.withResolvers<void>();
    child.once("spawn", resolve).once("error", reject);
    await promise;
  }

  kill(signal: number): void {
    if (this.#child?.pid !== undefined && this.#child.exitCode === null && this.#child.signalCode === null)
      process.kill(-this.#child.pid, signal);
    else if (!this.#child) {
      this.#killed = signal;
      this.#status.resolve(128 + this.#killed);
    }
  }

  get ended(): Promise<number> {
    return this.#status.promise;
  }

  async write(data: Uint8Array): Promise<void> {
    const { promise, resolve, reject } = Promise.withResolvers<void>();
    const stdin = this.#child?.stdin;
    if (!stdin) throw new TtrpcError(CODE.internal, "cannot get writer");
    stdin.write(data, (error) => (error ? reject(error) : resolve()));
    await promise;
  }

  closeStdin(): void {
    this.#child?.stdin?.end();
  }

  async read(name: "stdout" | "stderr", length: number): Promise<Uint8Array> {
    const stream = this.#child?.[name];
    return stream ? await readSome(stream, length) : new Uint8Array();
  }
}

/** Nothing: the end. */
async function readSome(stream: Readable, length: number): Promise<Uint8Array> {
  for (;;) {
    const data = (stream.read(Math.min(length, Math.max(1, stream.readableLength))) ?? undefined) as Buffer | undefined;
    if (data) return data;
    if (stream.readableEnded || stream.destroyed) return new Uint8Array();
    const { promise, resolve } = Promise.withResolvers<void>();
    for (const event of ["readable", "end", "close"]) stream.once(event, resolve);
    await promise;
    for (const event of ["readable", "end", "close"]) stream.off(event, resolve);
  }
}

interface Asked {
  readonly name: string;
  readonly request: unknown;
}

export class AgentDouble {
  /** In the order in which they came; without streams and the health, which are asked all the time. */
  readonly asked: Asked[] = [];
  readonly containers = new Map<string, Map<string, Process>>();
  /** What it answers instead, by the request's name. */
  readonly refusals = new Map<string, TtrpcError>();
  /** Requests that it never answers. */
  readonly silent = new Set<string>();
  /** Windows' sizes as they were told. */
  readonly sizes: string[] = [];
  serving = true;
  readonly #heard = new Map<string, PromiseWithResolvers<void>>();
  readonly #ooms: string[] = [];
  #oomWanted = Promise.withResolvers<void>();
  readonly server: TtrpcServer;

  constructor() {
    this.server = new TtrpcServer().add(agent.AgentService, this.#service()).add(health.Health, {
      check: async () => {
        await this.#hear("Check", {}, false);
        const { SERVING, NOT_SERVING } = health.HealthCheckResponse_ServingStatus;
        return { status: this.serving ? SERVING : NOT_SERVING };
      },
      version: () => Promise.resolve({ grpcVersion: "0.0.1", agentVersion: "double" }),
    });
  }

  names(): string[] {
    return this.asked.map(({ name }) => name);
  }

  last<T>(name: string): T {
    const found = this.asked.findLast((each) => each.name === name);
    if (!found) throw new Error(`nobody asked for ${name}`);
    return found.request as T;
  }

  /** Resolves when this has been asked for. */
  heard(name: string): Promise<void> {
    return this.#wanted(name).promise;
  }

  oom(containerId: string): void {
    this.#ooms.push(containerId);
    this.#oomWanted.resolve();
  }

  /** Every process of it too. */
  async close(): Promise<void> {
    for (const processes of this.containers.values())
      for (const process of processes.values()) process.kill(constants.signals.SIGKILL);
    await this.server.close();
  }

  #wanted(name: string): PromiseWithResolvers<void> {
    const wanted = this.#heard.get(name) ?? Promise.withResolvers<void>();
    this.#heard.set(name, wanted);
    return wanted;
  }

  async #hear(name: string, request: unknown, kept = true): Promise<void> {
    if (kept) this.asked.push({ name, request });
    this.#wanted(name).resolve();
    const refusal = this.refusals.get(name);
    if (refusal) throw refusal;
    if (this.silent.has(name)) await new Promise(() => undefined);
  }

  #container(id: string): Map<string, Process> {
    const found = this.containers.get(id);
    // The agent's own words and code (rpc.rs).
    if (!found) throw new TtrpcError(CODE.internal, "Invalid container id");
    return found;
  }

  #process(id: string, execId: string): Process {
    const found = this.containers.get(id)?.get(execId === "" ? id : execId);
    if (!found) throw new TtrpcError(CODE.notFound, `process ${execId} of ${id} not found`);
    return found;
  }

  #service(): Service {
    const empty =
      <T>(name: string, work: (request: T) => void | Promise<void> = () => undefined) =>
      async (request: T): Promise<object> => {
        await this.#hear(name, request);
        await work(request);
        return {};
      };
    return {
      createContainer: empty("CreateContainer", ({ containerId, execId, OCI }) => {
        const { Args = [], Env = [] } = OCI?.Process ?? {};
        this.containers.set(containerId, new Map([[execId, new Process(Args, Env)]]));
      }),
      startContainer: empty("StartContainer", ({ containerId }) => this.#process(containerId, "").start()),
      removeContainer: empty("RemoveContainer", ({ containerId }) => {
        for (const process of this.#container(containerId).values()) process.kill(constants.signals.SIGKILL);
        this.containers.delete(containerId);
      }),
      execProcess: empty("ExecProcess", async ({ containerId, execId, process }) => {
        const made = new Process(process?.Args ?? [], process?.Env ?? []);
        await made.start();
        this.#container(containerId).set(execId, made);
      }),
      signalProcess: empty("SignalProcess", ({ containerId, execId, signal }) => {
        if (execId === "" && signal === constants.signals.SIGKILL)
          for (const process of this.#container(containerId).values()) process.kill(signal);
        else this.#process(containerId, execId).kill(signal);
      }),
      waitProcess: async ({ containerId, execId }) => {
        const process = this.#process(containerId, execId);
        await this.#hear("WaitProcess", { containerId, execId });
        const status = await process.ended;
        this.containers.get(containerId)?.delete(execId === "" ? containerId : execId);
        return { status };
      },
      updateContainer: empty("UpdateContainer"),
      statsContainer: async (request) => {
        await this.#hear("StatsContainer", request);
        this.#container(request.containerId);
        return STATS;
      },
      pauseContainer: empty("PauseContainer", ({ containerId }) => void this.#container(containerId)),
      resumeContainer: empty("ResumeContainer", ({ containerId }) => void this.#container(containerId)),
      writeStdin: async ({ containerId, execId, data }) => {
        await this.#hear("WriteStdin", undefined, false);
        await this.#process(containerId, execId).write(data);
        return { len: data.length };
      },
      readStdout: ({ containerId, execId, len }) => this.#read("stdout", containerId, execId, len),
      readStderr: ({ containerId, execId, len }) => this.#read("stderr", containerId, execId, len),
      closeStdin: empty("CloseStdin", ({ containerId, execId }) => this.#process(containerId, execId).closeStdin()),
      ttyWinResize: empty("TtyWinResize", ({ row, column }) => void this.sizes.push(`${row}x${column}`)),
      updateInterface: async (request) => {
        await this.#hear("UpdateInterface", request);
        return request.interface ?? {};
      },
      updateRoutes: async (request) => {
        await this.#hear("UpdateRoutes", request);
        return request.routes ?? {};
      },
      addARPNeighbors: empty("AddARPNeighbors"),
      createSandbox: empty("CreateSandbox"),
      destroySandbox: empty("DestroySandbox"),
      onlineCPUMem: empty("OnlineCPUMem"),
      reseedRandomDev: empty("ReseedRandomDev"),
      setGuestDateTime: empty("SetGuestDateTime"),
      setPolicy: empty("SetPolicy"),
      getGuestDetails: async (request) => {
        await this.#hear("GetGuestDetails", request);
        return { memBlockSizeBytes: 128n << 20n, agentDetails: { version: "double", supportsSeccomp: true } };
      },
      getOOMEvent: async () => {
        while (this.#ooms.length === 0) {
          await this.#oomWanted.promise;
          this.#oomWanted = Promise.withResolvers();
        }
        return { containerId: this.#ooms.shift() ?? "" };
      },
    };
  }

  async #read(name: "stdout" | "stderr", id: string, execId: string, length: number): Promise<{ data: Uint8Array }> {
    await this.#hear(name, undefined, false);
    return { data: await this.#process(id, execId).read(name, length) };
  }
}

const STATS = {
  cgroupStats: {
    cpuStats: { cpuUsage: { totalUsage: 7_000_000n } },
    memoryStats: {
      usage: { usage: 1000n, limit: 2000n },
      swapUsage: { usage: 10n, limit: 0x7fff_ffff_ffff_f000n },
      stats: { inactive_file: 300n, anon: 500n, pgfault: 3n, pgmajfault: 1n },
    },
    pidsStats: { current: 2n },
  },
};
