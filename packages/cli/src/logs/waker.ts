/** Wakes a reader when a file may have more to read: it was written, renamed, made, or its end was announced. */
import { type FSWatcher, watch } from "node:fs";
import { dirname } from "node:path";

/** For file systems without change events (network mounts): look again after so many milliseconds. */
const LOOK_AGAIN = 1000;

export class Waker implements Disposable {
  readonly #watcher: FSWatcher;
  readonly #signal: AbortSignal;
  /** Something happened since the last wait. */
  #dirty = false;
  #wake: (() => void) | undefined;
  #error: Error | undefined;
  readonly #notice = (): void => {
    this.#dirty = true;
    this.#wake?.();
  };

  /** The directory of `path` must exist: it is watched, not the file, so that a rename is seen and a file may come later. */
  constructor(path: string, signal: AbortSignal) {
    this.#signal = signal;
    this.#watcher = watch(dirname(path), this.#notice);
    this.#watcher.on("error", (error) => {
      this.#error = error;
      this.#notice();
    });
    signal.addEventListener("abort", this.#notice);
  }

  get ended(): boolean {
    return this.#signal.aborted;
  }

  /** Until something has happened since the last call. */
  async wait(): Promise<void> {
    if (!this.#dirty) {
      const { promise, resolve } = Promise.withResolvers<void>();
      this.#wake = resolve;
      const timer = setTimeout(resolve, LOOK_AGAIN);
      await promise;
      clearTimeout(timer);
    }
    this.#wake = undefined;
    this.#dirty = false;
    if (this.#error) throw this.#error;
  }

  [Symbol.dispose](): void {
    this.#watcher.close();
    this.#signal.removeEventListener("abort", this.#notice);
  }
}
