import { canceled } from "../errors.ts";

/** Lets so much be done at a time; the others wait in order. */
export class Semaphore {
  #free: number;
  readonly #waiting: { readonly weight: number; readonly enter: () => void }[] = [];

  constructor(count: number) {
    this.#free = count;
  }

  /** Rejects if `signal` aborts before its turn. `weight`: of what the semaphore has at most. */
  async run<T>(signal: AbortSignal, work: () => Promise<T>, weight = 1): Promise<T> {
    await this.#enter(signal, weight);
    try {
      return await work();
    } finally {
      this.#free += weight;
      this.#admit();
    }
  }

  #enter(signal: AbortSignal, weight: number): Promise<void> {
    if (signal.aborted) return Promise.reject(canceled(signal, "pull"));
    return new Promise((resolve, reject) => {
      const enter = (): void => {
        signal.removeEventListener("abort", abort);
        resolve();
      };
      const turn = { weight, enter };
      const abort = (): void => {
        this.#waiting.splice(this.#waiting.indexOf(turn), 1);
        reject(canceled(signal, "pull"));
        this.#admit();
      };
      signal.addEventListener("abort", abort, { once: true });
      this.#waiting.push(turn);
      this.#admit();
    });
  }

  #admit(): void {
    for (let [next] = this.#waiting; next !== undefined && next.weight <= this.#free; [next] = this.#waiting) {
      this.#waiting.shift();
      this.#free -= next.weight;
      next.enter();
    }
  }
}
