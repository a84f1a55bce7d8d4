/** How long calls took, by their names, in Kata's buckets. */
import type { Sample } from "./exposition.ts";

/** Milliseconds: 1, 2, 4 … 512. */
const BOUNDS = Array.from({ length: 10 }, (_, power) => 2 ** power);

interface Counts {
  readonly buckets: number[];
  sum: number;
  count: number;
}

export class Durations {
  readonly #label: string | undefined;
  readonly #counts = new Map<string, Counts>();

  /** `label`: what the names of calls are given as; undefined: there is one, without a name. */
  constructor(label?: string) {
    this.#label = label;
  }

  observe(milliseconds: number, name = ""): void {
    const known = this.#counts.get(name) ?? { buckets: BOUNDS.map(() => 0), sum: 0, count: 0 };
    this.#counts.set(name, known);
    for (const [index, bound] of BOUNDS.entries())
      if (milliseconds <= bound) known.buckets[index] = (known.buckets[index] ?? 0) + 1;
    known.sum += milliseconds;
    known.count++;
  }

  /** Observes how long the work takes, however it ends. */
  async time<T>(name: string, work: () => Promise<T>): Promise<T> {
    const begin = performance.now();
    try {
      return await work();
    } finally {
      this.observe(performance.now() - begin, name);
    }
  }

  samples(): Sample[] {
    return [...this.#counts].flatMap(([name, { buckets, sum, count }]) => {
      const labels = this.#label === undefined ? {} : { [this.#label]: name };
      return [
        ...buckets.map((value, index) => ({
          suffix: "_bucket",
          labels: { ...labels, le: String(BOUNDS[index]) },
          value,
        })),
        { suffix: "_bucket", labels: { ...labels, le: "+Inf" }, value: count },
        { suffix: "_sum", labels, value: sum },
        { suffix: "_count", labels, value: count },
      ];
    });
  }
}
