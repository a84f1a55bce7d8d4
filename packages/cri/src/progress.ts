/**
 * One `Progress` runs through every server operation: the caller's deadline and cancellation, the names of the steps (for the
 * log, and for tests that stop the daemon between any two), and what must be undone if a later step fails.
 */
import type { Log } from "./log.ts";
import type { Ended, Telemetry } from "./telemetry/telemetry.ts";

export interface Undo {
  readonly name: string;
  run(): Promise<void>;
}

/** Of whom a Progress tells how long its steps took. */
export interface Timed {
  readonly telemetry: Telemetry;
  readonly pod: string;
  /** "": the pod's own. */
  readonly container: string;
}

export interface ProgressOptions {
  /** As in "RunPodSandbox". */
  readonly operation: string;
  readonly signal: AbortSignal;
  readonly log: Log;
  readonly timed?: Timed;
  /** Called before each step. */
  readonly onStep?: ((operation: string, step: string) => void) | undefined;
}

export class Progress {
  readonly signal: AbortSignal;
  readonly log: Log;
  readonly #operation: string;
  readonly #onStep: ProgressOptions["onStep"];
  readonly #undo: Undo[] = [];
  readonly #timed: Timed | undefined;
  readonly #whole: Ended | undefined;
  #current: Ended | undefined;

  constructor(options: ProgressOptions) {
    this.signal = options.signal;
    this.log = options.log;
    this.#operation = options.operation;
    this.#onStep = options.onStep;
    this.#timed = options.timed;
    this.#whole = this.#begin("");
  }

  /** Names the step that begins; rejects the operation here if its caller has gone. */
  step(name: string): void {
    this.signal.throwIfAborted();
    this.#stepEnded();
    this.#current = this.#begin(name);
    this.#onStep?.(this.#operation, name);
  }

  /** The operation has ended, with `error` or well. */
  ended(error?: unknown): void {
    this.#stepEnded(error);
    this.#whole?.(error);
  }

  #stepEnded(error?: unknown): void {
    this.#current?.(error);
    this.#current = undefined;
  }

  #begin(step: string): Ended | undefined {
    if (!this.#timed) return undefined;
    const { telemetry, pod, container } = this.#timed;
    return telemetry.stage({ operation: this.#operation, step, pod, container });
  }

  /** Registers how to take back what was just begun. Undone in reverse order, whether or not it was finished. */
  onFailure(name: string, run: () => Promise<void>): void {
    this.#undo.push({ name, run });
  }

  /** Runs every registered undo, last first; one that fails is logged and does not stop the others. */
  async rollBack(): Promise<void> {
    for (const undo of this.#undo.reverse()) {
      try {
        await undo.run();
      } catch (error) {
        this.log.error(
          { operation: this.#operation, undo: undo.name, err: error },
          "could not undo a step; the next start of berthd will",
        );
      }
    }
    this.#undo.length = 0;
  }
}

/** Runs `work` under a Progress; on failure what it had begun is undone, then the failure is passed on. */
export async function withProgress<T>(options: ProgressOptions, work: (progress: Progress) => Promise<T>): Promise<T> {
  const progress = new Progress(options);
  try {
    const result = await work(progress);
    progress.ended();
    return result;
  } catch (error) {
    progress.ended(error);
    await progress.rollBack();
    throw error;
  }
}
