/** Pulls under way, for whoever wants to watch: also for those who did not ask for them. */
import type { Progress } from "./types.ts";

export interface PullState {
  /** As it was asked for. */
  readonly reference: string;
  /** Milliseconds since the epoch. */
  readonly startedAt: number;
  /** By layer's digest, "manifest", "config"; in the order in which they were first heard of. */
  readonly progress: ReadonlyMap<string, Progress>;
}

export interface PullEvent {
  readonly reference: string;
  readonly startedAt: number;
  /** Absent: the pull has ended. */
  readonly progress?: Progress;
  /** Of one that failed: why. */
  readonly error?: string;
}

export class Pulls {
  readonly #states = new Set<PullState>();
  readonly #listeners = new Set<(event: PullEvent) => void>();

  list(): PullState[] {
    return [...this.#states];
  }

  /** Hears first how far each pull has got, then of every change, until the signal aborts. */
  watch(listener: (event: PullEvent) => void, signal: AbortSignal): void {
    if (signal.aborted) return;
    for (const { reference, startedAt, progress } of this.#states)
      for (const each of progress.values()) listener({ reference, startedAt, progress: each });
    this.#listeners.add(listener);
    signal.addEventListener("abort", () => this.#listeners.delete(listener), { once: true });
  }

  /** Runs a pull whose progress is told to `own` and to everyone who watches. */
  async track<T>(
    reference: string,
    own: (progress: Progress) => void,
    work: (progress: (progress: Progress) => void) => Promise<T>,
  ): Promise<T> {
    const layers = new Map<string, Progress>();
    const state = { reference, startedAt: Date.now(), progress: layers };
    const { startedAt } = state;
    this.#states.add(state);
    let error: string | undefined;
    try {
      return await work((progress) => {
        layers.set(progress.id, progress);
        own(progress);
        this.#tell({ reference, startedAt, progress });
      });
    } catch (failure) {
      error = failure instanceof Error ? failure.message : String(failure);
      throw failure;
    } finally {
      this.#states.delete(state);
      this.#tell({ reference, startedAt, ...(error === undefined ? {} : { error }) });
    }
  }

  #tell(event: PullEvent): void {
    for (const listener of this.#listeners) listener(event);
  }
}
