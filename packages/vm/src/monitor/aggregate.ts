/** kata-monitor's own metrics, and those of all pods of the node put together. */
import { basename } from "node:path";
import { askManagement } from "../management/client.ts";
import { listSandboxes } from "../management/place.ts";
import { type Family, mergeFamilies, parseExposition, withLabels } from "./exposition.ts";
import { family, single } from "./families.ts";
import { Durations } from "./histogram.ts";
import type { PodNames } from "./pods.ts";

export interface AggregatorOptions {
  /** Where pods' directories are. */
  readonly directories: readonly string[];
  /** Of the CRI; a failure leaves the labels empty. */
  readonly names: () => Promise<ReadonlyMap<string, PodNames>>;
  readonly log: (level: "debug" | "warn" | "error", message: string) => void;
}

/** Prometheus gives up a scrape after 10 s. */
const ANSWER_MS = 8_000;
const NO_NAMES: PodNames = { uid: "", name: "", namespace: "" };

export class Aggregator {
  readonly #options: AggregatorOptions;
  readonly #durations = new Durations();
  #scrapes = 0;
  #failed = 0;

  constructor(options: AggregatorOptions) {
    this.#options = options;
  }

  /** Directories of the pods whose machines run. */
  async sandboxes(): Promise<string[]> {
    return (await Promise.all(this.#options.directories.map(listSandboxes))).flat();
  }

  /** Of one pod, as it says them; counted like any other scrape. */
  async one(directory: string): Promise<string> {
    return await this.#counted(async () =>
      (await askManagement(directory, { path: "/metrics", timeoutMs: ANSWER_MS })).toString(),
    );
  }

  /** `prefixes`: of the families that are wanted, and then none of the monitor's own; none: all. */
  async all(prefixes: readonly string[]): Promise<Family[]> {
    return await this.#counted(async () => {
      const directories = await this.sandboxes();
      const names = await this.#names(directories.length > 0);
      const ofPods = mergeFamilies((await Promise.all(directories.map((path) => this.#pod(path, names)))).flat());
      if (prefixes.length > 0) return ofPods.filter(({ name }) => prefixes.some((prefix) => name.startsWith(prefix)));
      return [...this.#own(directories.length), ...ofPods];
    });
  }

  #own(running: number): Family[] {
    const { rss, external } = process.memoryUsage();
    const { userCPUTime, systemCPUTime } = process.resourceUsage();
    return [
      single("kata_monitor_running_shim_count", running),
      single("kata_monitor_scrape_count", this.#scrapes),
      single("kata_monitor_scrape_failed_count", this.#failed),
      family("kata_monitor_scrape_durations_histogram_milliseconds", this.#durations.samples()),
      ...(
        [
          ["process_resident_memory_bytes", "gauge", "Resident memory size in bytes.", rss],
          ["process_external_memory_bytes", "gauge", "Memory of buffers outside of JavaScript's heap.", external],
          [
            "process_cpu_seconds_total",
            "counter",
            "Total user and system CPU time spent in seconds.",
            (userCPUTime + systemCPUTime) / 1e6,
          ],
        ] as const
      ).map(([name, type, help, value]) => ({
        name: `kata_monitor_${name}`,
        type,
        help,
        samples: [{ labels: {}, value }],
      })),
    ];
  }

  async #names(hasPods: boolean): Promise<ReadonlyMap<string, PodNames>> {
    if (!hasPods) return new Map();
    try {
      return await this.#options.names();
    } catch (error) {
      this.#options.log("warn", `the runtime does not tell pods' names: ${(error as Error).message}`);
      return new Map();
    }
  }

  /** A pod that does not answer is left out: it may be going. */
  async #pod(directory: string, names: ReadonlyMap<string, PodNames>): Promise<Family[]> {
    const id = basename(directory);
    const { uid, name, namespace } = names.get(id) ?? NO_NAMES;
    const labels = { sandbox_id: id, cri_uid: uid, cri_name: name, cri_namespace: namespace };
    try {
      const text = (await askManagement(directory, { path: "/metrics", timeoutMs: ANSWER_MS })).toString();
      return parseExposition(text).map((one) => withLabels(shimsOwn(one), labels));
    } catch (error) {
      this.#options.log("error", `failed to get metrics for sandbox ${id}: ${(error as Error).message}`);
      return [];
    }
  }

  async #counted<T>(work: () => Promise<T>): Promise<T> {
    this.#scrapes++;
    try {
      return await this.#durations.time("", work);
    } catch (error) {
      this.#failed++;
      throw error;
    }
  }
}

/** What a Go shim says of its own process. */
const shimsOwn = (one: Family): Family =>
  /^(go|process)_/.test(one.name) ? { ...one, name: `kata_shim_${one.name}` } : one;
