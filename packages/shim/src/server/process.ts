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

  /** NotFound: it has ended. */
  async kill(signal: number): Promise<void> {
    const { link, session } = this;
    const isThere = !this.#exit && link && (await link.kill(session ?? 0, signal).catch(lostIsFalse));
    if (!isThere) throw new TtrpcError(CODE.notFound, "process already finished");
  }

  async resize(width: number, height: number): Promise<void> {
    if (!this.terminal) throw new TtrpcError(CODE.failedPrecondition, "the process has no terminal");
    if (this.#exit || !this.link) return;
    try {
      await this.link.resize(this.session ?? 0, height, width);
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
