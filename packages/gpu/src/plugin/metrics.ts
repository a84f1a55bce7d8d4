/** What Prometheus is told of a device plugin: calls, registrations, XIDs as they happen, and what is offered at the moment. */
import { readdir, readFile } from "node:fs/promises";

/** One resource, as it is at a scrape. */
export interface OfferedResource {
  readonly name: string;
  readonly isRegistered: boolean;
  readonly healthy: number;
  readonly unhealthy: number;
}

type Labels = Readonly<Record<string, string>>;

/** Upper bounds, seconds: a call's answer takes no longer than a look at a list. */
const BOUNDS = [0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1];
/** Clock ticks in a second, as /proc shows times on every machine that Linux runs on today. */
const TICKS = 100;
const PREFIX = "berth_device_plugin";

interface Timing {
  readonly labels: Labels;
  readonly buckets: number[];
  count: number;
  sum: number;
}

export class PluginMetrics {
  readonly #counters = new Map<string, { readonly name: string; readonly labels: Labels; value: number }>();
  readonly #timings = new Map<string, Timing>();
  /** What is offered, and the resources whose MPS control daemon is asked, with whether it answers. */
  offered: () => readonly OfferedResource[] = () => [];
  mpsDaemons: () => ReadonlyMap<string, boolean> = () => new Map();

  /** `code`: gRPC's name of the status, "OK". `seconds`: undefined of a call that lasts. */
  called(resource: string, method: string, code: string, seconds: number | undefined): void {
    this.#count("requests_total", { resource, method, code });
    if (seconds === undefined) return;
    const key = `${resource} ${method}`;
    const timing = this.#timings.get(key) ?? {
      labels: { resource, method },
      buckets: BOUNDS.map(() => 0),
      count: 0,
      sum: 0,
    };
    this.#timings.set(key, timing);
    for (const [index, bound] of BOUNDS.entries())
      if (seconds <= bound) timing.buckets[index] = (timing.buckets[index] ?? 0) + 1;
    timing.count++;
    timing.sum += seconds;
  }

  registered(resource: string, result: "success" | "failure"): void {
    this.#count("registrations_total", { resource, result });
  }

  /** `counted`: it makes devices unhealthy. */
  xid(gpu: string, xid: number, counted: boolean): void {
    this.#count("xid_events_total", { gpu, xid: String(xid), counted: String(counted) });
  }

  /** Resolves the text of one scrape. */
  async exposition(): Promise<string> {
    const offered = this.offered();
    const process_ = await ownProcess();
    const counted = (name: string): [Labels, number][] =>
      [...this.#counters.values()].filter((one) => one.name === name).map(({ labels, value }) => [labels, value]);
    const lines = [
      ...readings("build_info", "gauge", "The version that runs.", [[{ version: "0.1.0" }, 1]]),
      ...readings(
        "devices",
        "gauge",
        "Devices, or shares of them, by their health.",
        offered.flatMap(({ name, healthy, unhealthy }): [Labels, number][] => [
          [{ resource: name, health: "healthy" }, healthy],
          [{ resource: name, health: "unhealthy" }, unhealthy],
        ]),
      ),
      ...readings(
        "registered",
        "gauge",
        "1: the kubelet has been told of the resource.",
        offered.map(({ name, isRegistered }) => [{ resource: name }, isRegistered ? 1 : 0]),
      ),
      ...readings("registrations_total", "counter", "Attempts to tell the kubelet.", counted("registrations_total")),
      ...readings("requests_total", "counter", "The kubelet's calls.", counted("requests_total")),
      ...this.#durations(),
      ...readings("xid_events_total", "counter", "Critical errors of GPUs.", counted("xid_events_total")),
      ...readings(
        "mps_daemon_up",
        "gauge",
        "1: the resource's MPS control daemon answers.",
        [...this.mpsDaemons()].map(([resource, up]) => [{ resource }, up ? 1 : 0]),
      ),
      ...family("process_cpu_seconds_total", "counter", "User and system time.", [[{}, process_.cpu]]),
      ...family("process_resident_memory_bytes", "gauge", "Memory in RAM.", [[{}, process_.rss]]),
      ...family("process_open_fds", "gauge", "Open descriptors.", [[{}, process_.descriptors]]),
    ];
    return `${lines.join("\n")}\n`;
  }

  #count(name: string, labels: Labels): void {
    const key = `${name}${inBraces(labels)}`;
    const counter = this.#counters.get(key) ?? { name, labels, value: 0 };
    this.#counters.set(key, counter);
    counter.value++;
  }

  *#durations(): Generator<string> {
    const name = `${PREFIX}_request_duration_seconds`;
    if (this.#timings.size === 0) return;
    yield* heading(name, "histogram", "How long the kubelet's calls took.");
    for (const { labels, buckets, count, sum } of this.#timings.values()) {
      for (const [index, bound] of BOUNDS.entries())
        yield `${name}_bucket${inBraces({ ...labels, le: String(bound) })} ${buckets[index]}`;
      yield `${name}_bucket${inBraces({ ...labels, le: "+Inf" })} ${count}`;
      yield `${name}_sum${inBraces(labels)} ${sum}`;
      yield `${name}_count${inBraces(labels)} ${count}`;
    }
  }
}

const readings = (name: string, type: string, help: string, values: readonly (readonly [Labels, number])[]) =>
  family(`${PREFIX}_${name}`, type, help, values);

/** In Prometheus's text format, version 0.0.4; nothing without a value. */
function family(name: string, type: string, help: string, values: readonly (readonly [Labels, number])[]): string[] {
  if (values.length === 0) return [];
  return [...heading(name, type, help), ...values.map(([labels, value]) => `${name}${inBraces(labels)} ${value}`)];
}

const heading = (name: string, type: string, help: string): string[] => [
  `# HELP ${name} ${help}`,
  `# TYPE ${name} ${type}`,
];

function inBraces(labels: Labels): string {
  const escaped = (value: string): string => value.replace(/[\\"]/g, String.raw`\$&`).replaceAll("\n", String.raw`\n`);
  const pairs = Object.entries(labels).map(([name, value]) => `${name}="${escaped(value)}"`);
  return pairs.length === 0 ? "" : `{${pairs.join(",")}}`;
}

/** proc_pid_stat(5): utime and stime are fields 14 and 15. */
async function ownProcess(): Promise<{ cpu: number; rss: number; descriptors: number }> {
  const stat = await readFile("/proc/self/stat", "utf8");
  const fields = stat.slice(stat.lastIndexOf(")") + 2).split(" ");
  return {
    cpu: (Number(fields[11]) + Number(fields[12])) / TICKS,
    rss: process.memoryUsage.rss(),
    descriptors: (await readdir("/proc/self/fd")).length,
  };
}
