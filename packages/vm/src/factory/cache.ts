/**
 * Machines that wait for a pod: as many of each kind as its configuration says, made one after the other once somebody has asked for that
 * kind. Who takes one has it for good. What goes wrong is told, and costs nobody a pod.
 */

/** What is kept: berthd's are IdleMachines. */
export interface Kept {
  /** Resolves, with the reason, when it is of no use any more. */
  readonly ended: Promise<string>;
  /** Ends it, and leaves nothing of it. */
  remove(): Promise<void>;
}

export interface Stock<T extends Kept> {
  /** What it is known by: machines of one are as good as each other. */
  readonly digest: string;
  readonly count: number;
  /** Undefined: not now; it is tried again when the kind is asked for again. */
  make(signal: AbortSignal): Promise<T | undefined>;
}

/** A pod's annotations can ask for any kind: those asked for longest ago are given up. */
const MOST_KINDS = 4;
/** After so many failures, and no success between them, none of the kind is kept. */
const ATTEMPTS = 2;

interface Kind<T extends Kept> {
  stock: Stock<T>;
  readonly kept: T[];
}

export class Cache<T extends Kept> {
  readonly #warn: (message: string) => void;
  /** By digest, the one asked for last at the end. */
  readonly #kinds = new Map<string, Kind<T>>();
  readonly #failures = new Map<string, number>();
  readonly #removals = new Set<Promise<void>>();
  readonly #stop = new AbortController();
  #filling: Promise<void> | undefined;

  constructor(warn: (message: string) => void) {
    this.#warn = warn;
  }

  /** Undefined: none is ready. */
  take(digest: string): T | undefined {
    return this.#kinds.get(digest)?.kept.shift();
  }

  /** So many are to be there from now on: made in the background, or ended where there are more. */
  keep(stock: Stock<T>): void {
    if (this.#stop.signal.aborted) return;
    const { digest } = stock;
    const kind = this.#kinds.get(digest) ?? { stock, kept: [] };
    kind.stock = stock;
    this.#kinds.delete(digest);
    this.#kinds.set(digest, kind);
    this.#drop(kind.kept.splice(stock.count));
    const surplus = this.#kinds.size - MOST_KINDS;
    for (const oldest of [...this.#kinds.keys()].slice(0, Math.max(0, surplus))) this.#forget(oldest);
    this.#fill();
  }

  /** One that was taken is in use. */
  succeed(digest: string): void {
    this.#failures.delete(digest);
  }

  /** One that was taken could not be used. */
  fail(digest: string, problem: string): void {
    const failures = (this.#failures.get(digest) ?? 0) + 1;
    this.#failures.set(digest, failures);
    const end = failures < ATTEMPTS ? "" : "; none of this configuration is kept ready from now on";
    this.#warn(`virtual machines that wait for a pod: ${problem}${end}`);
  }

  /** Resolves when nothing is being made or ended. */
  async settled(): Promise<void> {
    while (this.#filling || this.#removals.size > 0) await Promise.all([this.#filling, ...this.#removals]);
  }

  /** Ends them all. */
  async close(): Promise<void> {
    this.#stop.abort(new Error("the daemon ends"));
    await this.#filling;
    for (const digest of this.#kinds.keys()) this.#forget(digest);
    await this.settled();
  }

  #forget(digest: string): void {
    this.#drop(this.#kinds.get(digest)?.kept.splice(0) ?? []);
    this.#kinds.delete(digest);
  }

  #drop(machines: readonly T[]): void {
    for (const machine of machines) {
      const removal = machine
        .remove()
        .catch((error: unknown) => this.#warn(`a virtual machine that no pod took: ${(error as Error).message}`))
        .finally(() => this.#removals.delete(removal));
      this.#removals.add(removal);
    }
  }

  /** The one asked for last first. */
  #lacking(): Kind<T> | undefined {
    if (this.#stop.signal.aborted) return undefined;
    return [...this.#kinds.values()]
      .toReversed()
      .find(({ stock, kept }) => kept.length < stock.count && (this.#failures.get(stock.digest) ?? 0) < ATTEMPTS);
  }

  #fill(): void {
    if (this.#filling || !this.#lacking()) return;
    this.#filling = this.#addAll().finally(() => {
      this.#filling = undefined;
      this.#fill();
    });
  }

  async #addAll(): Promise<void> {
    for (let kind = this.#lacking(); kind; kind = this.#lacking()) await this.#add(kind.stock);
  }

  async #add(stock: Stock<T>): Promise<void> {
    const { signal } = this.#stop;
    const { digest } = stock;
    let machine: T | undefined;
    try {
      machine = await stock.make(signal);
    } catch (error) {
      if (!signal.aborted) this.fail(digest, `none could be started: ${(error as Error).message}`);
      return;
    }
    if (!machine) return this.#forget(digest);
    const kind = this.#kinds.get(digest);
    // Its kind may have been given up meanwhile, or fewer asked for.
    if (signal.aborted || !kind || kind.kept.length >= kind.stock.count) return this.#drop([machine]);
    kind.kept.push(machine);
    void machine.ended.then((reason) => this.#ended(digest, machine, reason));
  }

  /** By itself: nobody has taken it, nor ended it. */
  #ended(digest: string, machine: T, reason: string): void {
    const kept = this.#kinds.get(digest)?.kept ?? [];
    const index = kept.indexOf(machine);
    if (index === -1) return;
    this.#drop(kept.splice(index, 1));
    this.fail(digest, `one ended before a pod had it: ${reason}`);
    this.#fill();
  }
}
