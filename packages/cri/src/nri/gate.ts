/** What is being made while a plugin is told of what there is would be lost to it: so the one waits for the other. */
export class Gate {
  #inside = 0;
  /** While somebody is alone, or waits to be: everybody else waits for its end. */
  #alone: PromiseWithResolvers<void> | undefined;
  #emptied: (() => void) | undefined;

  /** Together with others, until it is disposed of. */
  async enter(): Promise<Disposable> {
    while (this.#alone) await this.#alone.promise;
    this.#inside++;
    return {
      [Symbol.dispose]: () => {
        this.#inside--;
        if (this.#inside === 0) this.#emptied?.();
      },
    };
  }

  /** Carries `work` out with nobody inside. */
  async alone<T>(work: () => Promise<T>): Promise<T> {
    while (this.#alone) await this.#alone.promise;
    const alone = (this.#alone = Promise.withResolvers<void>());
    try {
      if (this.#inside > 0) {
        const { promise, resolve } = Promise.withResolvers<void>();
        this.#emptied = resolve;
        await promise;
      }
      return await work();
    } finally {
      this.#emptied = undefined;
      this.#alone = undefined;
      alone.resolve();
    }
  }
}
