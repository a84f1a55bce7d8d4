/** Ends a connection on which nothing has moved for long. */
export class IdleTimer {
  readonly #limitMs: number;
  readonly #onIdle: () => void;
  #timer: NodeJS.Timeout | undefined;
  #last = 0;

  /** `limitMs` 0: never. */
  constructor(limitMs: number, onIdle: () => void) {
    this.#limitMs = limitMs;
    this.#onIdle = onIdle;
    this.touch();
    if (limitMs > 0) this.#wait(limitMs);
  }

  /** Something has moved. Cheap: the timer is set anew only when it fires. */
  touch(): void {
    this.#last = performance.now();
  }

  stop(): void {
    clearTimeout(this.#timer);
  }

  #wait(ms: number): void {
    this.#timer = setTimeout(() => {
      const left = this.#last + this.#limitMs - performance.now();
      if (left > 0) this.#wait(Math.ceil(left));
      else this.#onIdle();
    }, ms);
    this.#timer.unref();
  }
}
