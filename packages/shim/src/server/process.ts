/** One process of a container: its own, or one that Exec has made. */
import { taskTypes } from "@berth/spec/shim";
import { type MonitorLink, MonitorLost, OrderError } from "@berth/kernel";
import { CODE, TtrpcError } from "@berth/ttrpc";
import { type StreamPaths, Streams } from "./streams.ts";

const { Status } = taskTypes;

export interface Exit {
  /** Or 128+signal. */
  readonly code: number;
  /** ns since the epoch. */
  readonly at: bigint;
}

export abstract class TaskProcess {
  readonly terminal: boolean;
  readonly paths: StreamPaths;
  readonly streams = new Streams();
  pid = 0;
  #exit: Exit | undefined;
  readonly #ended = Promise.withResolvers<Exit>();

  constructor(terminal: boolean, paths: StreamPaths) {
    this.terminal = terminal;
    this.paths = paths;
  }

  protected abstract readonly link: MonitorLink | undefined;
  /** Of the monitor; undefined before its start. */
  protected abstract readonly session: number | undefined;
  /** Whose signals and sizes are its own, also before its start; undefined: there is no process yet. */
  protected abstract get reached(): number | undefined;

  get exit(): Exit | undefined {
    return this.#exit;
  }

  /** Settles when it has ended; never, where it is never started. */
  get ended(): Promise<Exit> {
    return this.#ended.promise;
  }

  get status(): taskTypes.Status {
    if (this.#exit) return Status.STOPPED;
    return this.session === undefined ? Status.CREATED : Status.RUNNING;
  }

  /** NotFound: it has ended. FailedPrecondition: it was never started, and never will be by who asks this. */
  async kill(signal: number): Promise<void> {
    const { link, reached } = this;
    if (reached === undefined) throw new TtrpcError(CODE.failedPrecondition, "process not created");
    const isThere = !this.#exit && link && (await link.kill(reached, signal).catch(lostIsFalse));
    if (!isThere) throw new TtrpcError(CODE.notFound, "process already finished");
  }

  async resize(width: number, height: number): Promise<void> {
    if (!this.terminal) throw new TtrpcError(CODE.failedPrecondition, "the process has no terminal");
    const { link, reached } = this;
    if (this.#exit || !link || reached === undefined) return;
    try {
      await link.resize(reached, height, width);
    } catch (error) {
      // It has ended meanwhile.
      if (error instanceof MonitorLost || (error instanceof OrderError && error.code === "ESRCH")) return;
      throw error;
    }
  }

  protected hasEnded(exit: Exit): void {
    if (this.#exit) return;
    this.#exit = exit;
    this.#ended.resolve(exit);
  }
}

/** A monitor ends with its process. */
function lostIsFalse(error: unknown): false {
  if (error instanceof MonitorLost) return false;
  throw error;
}
