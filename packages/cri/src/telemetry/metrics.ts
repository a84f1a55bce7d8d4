/** Counters, gauges and histograms, and how Prometheus reads them (text exposition format 0.0.4). */

type Labels = Readonly<Record<string, string>>;

/** Seconds; from a status call to a slow pull. */
export const LATENCY_BUCKETS = [0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300];

interface Series {
  readonly labels: Labels;
  /** One more than there are bounds: what is above the last. */
  readonly counts: number[];
  sum: number;
}

export class Histogram {
  readonly #name: string;
  readonly #help: string;
  readonly #bounds: readonly number[];
  readonly #series = new Map<string, Series>();

  constructor(name: string, help: string, bounds: readonly number[] = LATENCY_BUCKETS) {
    this.#name = name;
    this.#help = help;
    this.#bounds = bounds;
  }

  observe(labels: Labels, value: number): void {
    const key = labelText(labels);
    let series = this.#series.get(key);
    if (!series) {
      series = { labels, counts: Array.from({ length: this.#bounds.length + 1 }, () => 0), sum: 0 };
      this.#series.set(key, series);
    }
    const bucket = this.#bounds.findIndex((bound) => value <= bound);
    const at = bucket < 0 ? this.#bounds.length : bucket;
    series.counts[at] = (series.counts[at] ?? 0) + 1;
    series.sum += value;
  }

  *lines(): Generator<string> {
    yield* header(this.#name, this.#help, "histogram");
    for (const { labels, counts, sum } of this.#series.values()) {
      let total = 0;
      for (const [index, count] of counts.entries()) {
        total += count;
        const le = this.#bounds[index];
        yield sample(`${this.#name}_bucket`, { ...labels, le: le === undefined ? "+Inf" : String(le) }, total);
      }
      yield sample(`${this.#name}_sum`, labels, sum);
      yield sample(`${this.#name}_count`, labels, total);
    }
  }
}

/** A metric that is read when it is asked for. */
export function* readings(
  name: string,
  type: "gauge" | "counter",
  help: string,
  values: Iterable<readonly [Labels, number]>,
): Generator<string> {
  yield* header(name, help, type);
  for (const [labels, value] of values) yield sample(name, labels, value);
}

function* header(name: string, help: string, type: string): Generator<string> {
  yield `# HELP ${name} ${help}`;
  yield `# TYPE ${name} ${type}`;
}

const sample = (name: string, labels: Labels, value: number): string => `${name}${labelText(labels)} ${value}`;

function labelText(labels: Labels): string {
  const parts = Object.entries(labels).map(([name, value]) => `${name}="${escape(value)}"`);
  return parts.length === 0 ? "" : `{${parts.join(",")}}`;
}

const ESCAPES: Readonly<Record<string, string>> = { "\\": "\\\\", '"': '\\"', "\n": "\\n" };
const escape = (value: string): string => value.replace(/[\\"\n]/g, (character) => ESCAPES[character] ?? character);
