/**
 * The life of pods through one gRPC client, berthd and Debian's containerd + runc in turn, in one run: medians per call and
 * their ratios, a burst, and the memory that pods cost.
 *
 *   sudo bench/run pods [--rounds 30] [--burst 20] [--json FILE]
 */
import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { parseArgs } from "node:util";
import { connectCri } from "./lib/client.ts";
import { median, percentile, table } from "./lib/figures.ts";
import { down, inParallel, sandboxConfig, type Subject, timed, up } from "./lib/life.ts";
import { kernelMemory, processesLike, pss } from "./lib/memory.ts";
import { run } from "./lib/process.ts";
import { makeImages, type Peer, startBerth, startContainerd } from "./lib/peers.ts";

const { values: flags } = parseArgs({
  options: {
    rounds: { type: "string", default: "30" },
    burst: { type: "string", default: "20" },
    json: { type: "string" },
  },
});
const [rounds, burstSize] = [Number(flags.rounds), Number(flags.burst)];
const BURST_WIDTH = 5;

async function round(subject: Subject): Promise<void> {
  const { runtime } = subject.client;
  const before = performance.now();
  const { pod, container } = await up(subject, sandboxConfig());
  (subject.times["three calls up"] ??= []).push(performance.now() - before);
  for (let i = 0; i < 5; i++)
    await timed(subject, "ExecSync", runtime.execSync({ containerId: container, cmd: ["/bin/true"], timeout: 10n }));
  await timed(subject, "ContainerStatus", runtime.containerStatus({ containerId: container }));
  await timed(subject, "ListContainers", runtime.listContainers({}));
  await down(subject, pod, container);
}

interface Burst {
  upMs: number;
  downMs: number;
  podPss: number;
  podKernel: number;
  daemonPss: number;
}

async function burst(subject: Subject): Promise<Burst> {
  const kernelBefore = kernelMemory();
  const configs = Array.from({ length: burstSize }, sandboxConfig);
  let from = performance.now();
  const pods = await inParallel(configs, BURST_WIDTH, (config) => up(subject, config, false));
  const upMs = performance.now() - from;
  const memory = processesLike(subject.peer.perPod).reduce((sum, pid) => sum + pss(pid), 0);
  const podKernel = (kernelMemory() - kernelBefore) / burstSize;
  const daemonPss = pss(subject.peer.service.pid);
  from = performance.now();
  await inParallel(pods, BURST_WIDTH, ({ pod, container }) => down(subject, pod, container, false));
  return { upMs, downMs: performance.now() - from, podPss: memory / burstSize, podKernel, daemonPss };
}

const work = mkdtempSync("/var/tmp/berth-bench-");
const places = { work, run: mkdtempSync("/run/berth-bench-") };
const peers: Peer[] = [];
try {
  const images = await makeImages(work);
  peers.push(await startBerth(places, images.busybox));
  peers.push(await startContainerd(places, images.busybox, images.pause));
  const subjects = peers.map((peer): Subject => ({ peer, client: connectCri(peer.socket), times: {} }));
  for (const subject of subjects) await round({ ...subject, times: {} });
  const idle = subjects.map(({ peer }) => pss(peer.service.pid));
  for (let i = 0; i < rounds; i++) for (const subject of subjects) await round(subject);
  const bursts: Burst[] = [];
  for (const subject of subjects) bursts.push(await burst(subject));
  report(subjects, bursts, idle);
  for (const { client } of subjects) client.close();
} finally {
  for (const peer of peers) {
    await peer.service.stop();
    await run(["ip", "link", "delete", peer.bridge]);
  }
  for (const dir of [work, places.run]) rmSync(dir, { recursive: true, force: true });
}

function report(subjects: readonly Subject[], bursts: readonly Burst[], idle: readonly number[]): void {
  const [ours, theirs] = subjects;
  const [ourBurst, theirBurst] = bursts;
  if (!ours || !theirs || !ourBurst || !theirBurst) throw new Error("both runtimes must have been measured");
  const ms = (value: number): string => value.toFixed(1);
  const kb = (value: number): string => `${Math.round(value / 1024)} KB`;
  const rows = [["median ms", "berth", "p90", "containerd", "p90", "ratio"]];
  for (const call of Object.keys(ours.times)) {
    const [a, b] = [ours.times[call] ?? [], theirs.times[call] ?? []];
    rows.push([
      call,
      ms(median(a)),
      ms(percentile(a, 90)),
      ms(median(b)),
      ms(percentile(b, 90)),
      (median(a) / median(b)).toFixed(2),
    ]);
  }
  const sum = ({ times }: Subject): number =>
    median(times["CreateContainer"] ?? []) + median(times["StartContainer"] ?? []);
  rows.push(["Create + Start", ms(sum(ours)), "", ms(sum(theirs)), "", (sum(ours) / sum(theirs)).toFixed(2)]);
  rows.push([
    `${burstSize} pods, ${BURST_WIDTH} at once: up`,
    ms(ourBurst.upMs),
    "",
    ms(theirBurst.upMs),
    "",
    (ourBurst.upMs / theirBurst.upMs).toFixed(2),
  ]);
  rows.push([
    `${burstSize} pods, ${BURST_WIDTH} at once: down`,
    ms(ourBurst.downMs),
    "",
    ms(theirBurst.downMs),
    "",
    (ourBurst.downMs / theirBurst.downMs).toFixed(2),
  ]);
  rows.push([
    "memory per pod, PSS",
    kb(ourBurst.podPss),
    "",
    kb(theirBurst.podPss),
    "",
    (ourBurst.podPss / theirBurst.podPss).toFixed(3),
  ]);
  rows.push([
    "kernel memory per pod",
    kb(ourBurst.podKernel),
    "",
    kb(theirBurst.podKernel),
    "",
    (ourBurst.podKernel / theirBurst.podKernel).toFixed(2),
  ]);
  rows.push([
    "daemon idle, PSS",
    kb(idle[0] ?? 0),
    "",
    kb(idle[1] ?? 0),
    "",
    ((idle[0] ?? 0) / (idle[1] ?? 1)).toFixed(2),
  ]);
  rows.push([
    `daemon with ${burstSize} pods, PSS`,
    kb(ourBurst.daemonPss),
    "",
    kb(theirBurst.daemonPss),
    "",
    (ourBurst.daemonPss / theirBurst.daemonPss).toFixed(2),
  ]);
  console.log(table(rows));
  if (flags.json !== undefined)
    writeFileSync(
      flags.json,
      JSON.stringify({ times: subjects.map(({ peer, times }) => ({ name: peer.name, times })), bursts, idle }, null, 1),
    );
}
