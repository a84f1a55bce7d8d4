/**
 * A kubelet's steady state: the calls and rates of a node with many pods, for minutes, on berthd and then on Debian's containerd +
 * runc. Shows the tail of each call, what CPU it costs, and whether memory and file descriptors stay flat.
 *
 *   sudo bench/run steady [--pods 100] [--minutes 10] [--only berth|containerd] [--json FILE]
 */
import { mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { setInterval as ticks } from "node:timers/promises";
import { parseArgs } from "node:util";
import { connect } from "@berth/cli";
import { median, percentile, table } from "./lib/figures.ts";
import { down, inParallel, sandboxConfig, type Subject, timed, up } from "./lib/life.ts";
import { daemonPss, family, processesLike, pss } from "./lib/memory.ts";
import { makeImages, type Peer, startBerth, startContainerd } from "./lib/peers.ts";
import { run } from "./lib/process.ts";

const { values: flags } = parseArgs({
  options: {
    pods: { type: "string", default: "100" },
    minutes: { type: "string", default: "10" },
    only: { type: "string" },
    json: { type: "string" },
  },
});
const [pods, minutes] = [Number(flags.pods), Number(flags.minutes)];
const SECOND = 1000;
/** sysconf(_SC_CLK_TCK): 100 on every Linux that this runs on. */
const TICKS_PER_SECOND = 100;

interface Sample {
  /** CPU seconds of the daemon and of all that it has for its pods, the workloads left out. */
  readonly cpu: number;
  readonly pss: number;
  readonly podsPss: number;
  readonly fds: number;
}

interface Pod {
  readonly pod: string;
  readonly container: string;
}

/** What the kubelet (1.36) does to a runtime, with its default periods: PLEG, runtime state, stats, probes, log rotation. */
async function kubelet(subject: Subject, all: readonly Pod[], signal: AbortSignal): Promise<void> {
  const { runtime, images: image } = subject.client;
  const pick = rotating(all);
  const jobs: [number, () => Promise<unknown>][] = [
    [1, () => timed(subject, "ListPodSandbox", runtime.listPodSandbox({}))],
    [1, () => timed(subject, "ListContainers", runtime.listContainers({}))],
    [5, () => timed(subject, "Status", runtime.status({}))],
    [5, () => timed(subject, "Version", runtime.version({}))],
    [10, () => timed(subject, "ListContainerStats", runtime.listContainerStats({}))],
    [10, () => timed(subject, "ImageFsInfo", image.imageFsInfo({}))],
    [60, () => timed(subject, "ListImages", image.listImages({}))],
    [10, () => timed(subject, "ReopenContainerLog", runtime.reopenContainerLog({ containerId: pick().container }))],
    [1, () => timed(subject, "ContainerStatus", runtime.containerStatus({ containerId: pick().container }))],
    [1, () => timed(subject, "PodSandboxStatus", runtime.podSandboxStatus({ podSandboxId: pick().pod }))],
    // A fifth of the pods have an exec probe of the usual ten seconds.
    [
      50 / all.length,
      () =>
        timed(
          subject,
          "ExecSync",
          runtime.execSync({ containerId: pick().container, cmd: ["/bin/true"], timeout: 5n }),
        ),
    ],
  ];
  await Promise.all(jobs.map(([seconds, call]) => every(seconds, call, signal)));
}

async function every(seconds: number, call: () => Promise<unknown>, signal: AbortSignal): Promise<void> {
  try {
    for await (const _ of ticks(seconds * SECOND, undefined, { signal })) await call();
  } catch (error) {
    if (!signal.aborted) throw error;
  }
}

function rotating<T>(items: readonly T[]): () => T {
  let next = 0;
  return () => {
    const item = items[next++ % items.length];
    if (item === undefined) throw new Error("no pods");
    return item;
  };
}

function sample({ peer }: Subject): Sample {
  const daemon = family(peer.service.pid);
  const perPod = processesLike(peer.perPod).filter((pid) => !daemon.includes(pid));
  return {
    cpu: [...daemon, ...perPod].reduce((sum, pid) => sum + cpuSeconds(pid), 0),
    pss: daemonPss(peer.service.pid),
    podsPss: perPod.reduce((sum, pid) => sum + pss(pid), 0),
    fds: readdirSync(`/proc/${peer.service.pid}/fd`).length,
  };
}

/** User and system time; 0 for a process that is gone. */
function cpuSeconds(pid: number): number {
  try {
    const fields = readFileSync(`/proc/${pid}/stat`, "utf8").split(") ").at(-1)?.split(" ") ?? [];
    return (Number(fields[11]) + Number(fields[12])) / TICKS_PER_SECOND;
  } catch (error) {
    if (["ENOENT", "ESRCH"].includes((error as NodeJS.ErrnoException).code ?? "")) return 0;
    throw error;
  }
}

async function measure(peer: Peer): Promise<{ subject: Subject; samples: Sample[] }> {
  const subject: Subject = { peer, client: connect(peer.socket), times: {} };
  const made = await inParallel(Array.from({ length: pods }, sandboxConfig), 5, (config) => up(subject, config, false));
  try {
    return { subject, samples: await watched(subject, made) };
  } finally {
    await inParallel(made, 5, ({ pod, container }) => down(subject, pod, container, false));
    subject.client.close();
  }
}

/** A sample every ten seconds, while the kubelet does its work; a call that fails ends both. */
async function watched(subject: Subject, made: readonly Pod[]): Promise<Sample[]> {
  const controller = new AbortController();
  const samples = [sample(subject)];
  const sampling = every(
    10,
    async () => {
      samples.push(sample(subject));
      if (samples.length > minutes * 6) controller.abort();
    },
    controller.signal,
  );
  try {
    await Promise.all([kubelet(subject, made, controller.signal), sampling]);
  } finally {
    controller.abort();
  }
  return samples;
}

function report(results: readonly Awaited<ReturnType<typeof measure>>[]): void {
  const calls = Object.keys(results[0]?.subject.times ?? {});
  const ms = (value: number): string => value.toFixed(1);
  const mb = (value: number): string => `${(value / 1_048_576).toFixed(1)} MB`;
  const header = ["ms", ...results.flatMap(({ subject }) => [subject.peer.name, "p99", "max"])];
  const rows = calls.map((call) => [
    call,
    ...results.flatMap(({ subject }) => {
      const times = subject.times[call] ?? [];
      return [ms(median(times)), ms(percentile(times, 99)), ms(Math.max(...times))];
    }),
  ]);
  console.log(table([header, ...rows]));
  const quarter = (samples: Sample[], last: boolean): Sample[] => {
    const size = Math.max(1, Math.floor(samples.length / 4));
    return last ? samples.slice(-size) : samples.slice(1, 1 + size);
  };
  const flat = (samples: Sample[], key: "pss" | "podsPss" | "fds", show: (value: number) => string): string[] =>
    [false, true].map((last) => show(median(quarter(samples, last).map((one) => one[key]))));
  const lines = results.map(({ subject, samples }) => {
    const [first, last] = [samples[0], samples.at(-1)];
    const cpu = ((last?.cpu ?? 0) - (first?.cpu ?? 0)) / ((samples.length - 1) * 10);
    return [
      subject.peer.name,
      `${(cpu * 100).toFixed(1)} %`,
      ...flat(samples, "pss", mb),
      ...flat(samples, "podsPss", mb),
      ...flat(samples, "fds", String),
    ];
  });
  console.log(
    `\n${table([["", "CPU of one core", "daemon PSS, first", "last quarter", "pods' PSS, first", "last", "descriptors, first", "last"], ...lines])}`,
  );
  if (flags.json !== undefined)
    writeFileSync(
      flags.json,
      JSON.stringify(
        results.map(({ subject, samples }) => ({ name: subject.peer.name, times: subject.times, samples })),
      ),
    );
}

const places = { work: mkdtempSync("/var/tmp/berth-bench-"), run: mkdtempSync("/run/berth-bench-") };
try {
  const images = await makeImages(places.work);
  const results = [];
  for (const [name, start] of [
    ["berth", () => startBerth(places, images.busybox)],
    ["containerd", () => startContainerd(places, images.busybox, images.pause)],
  ] as const) {
    if (flags.only !== undefined && flags.only !== name) continue;
    const peer = await start();
    try {
      results.push(await measure(peer));
    } finally {
      await peer.service.stop();
      await run(["ip", "link", "delete", peer.bridge]);
    }
  }
  report(results);
} finally {
  for (const dir of [places.work, places.run]) rmSync(dir, { recursive: true, force: true });
}
