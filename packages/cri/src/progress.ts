/**
 * One `Progress` runs through every server operation: the caller's deadline and cancellation, the names of the steps (for the
 * log, and for tests that stop the daemon between any two), and what must be undone if a later step fails.
 */
import type { Log } from "./log.ts";

export interface Undo {
  readonly name: string;
  run(): Promise<void>;
}

export interface ProgressOptions {
  /** As in "RunPodSandbox". */
  readonly operation: string;
  readonly signal: AbortSignal;
  readonly log: Log;
  /** Called before each step. */
  readonly onStep?: ((operation: string, step: string) => void) | undefined;
}

export class Progress {
  readonly signal: AbortSignal;
  readonly log: Log;
  readonly #operation: string;
  readonly #onStep: ProgressOptions["onStep"];
  readonly #undo: Undo[] = [];

  constructor(options: ProgressOptions) {
    this.signal = options.signal;
    this.log = options.log;
    this.#operation = options.operation;
    this.#onStep = options.onStep;
  }

  /** Names the step that begins; rejects the operation here if its caller has gone. */
  step(name: string): void {
    this.signal.throwIfAborted();
    this.#onStep?.(this.#operation, name);
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
    return await work(progress);
  } catch (error) {
    await progress.rollBack();
    throw error;
  }
}
