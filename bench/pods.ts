/**
 * The life of pods through one gRPC client, berthd and Debian's containerd + runc in turn, in one run, and each figure beside what
 * is promised of it: medians per call and their ratios, a burst, lists and statistics of a crowd, a restart under load, memory.
 *
 *   sudo bench/run pods [--rounds 30] [--burst 20] [--crowd 200] [--idle 60] [--json FILE]
 */
import { existsSync, mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { setTimeout as sleep } from "node:timers/promises";
import { parseArgs } from "node:util";
import { callFigure, type Figure, HEADING, row, sumFigure } from "./lib/aims.ts";
import { connect } from "@berth/cli";
import { disperse, gather, listAll, recovery } from "./lib/crowd.ts";
import { table } from "./lib/figures.ts";
import { down, inParallel, sandboxConfig, type Subject, timed, up } from "./lib/life.ts";
import { daemonPss, kernelMemory, processesLike, pss } from "./lib/memory.ts";
import { run } from "./lib/process.ts";
import { makeImages, type Peer, startBerth, startContainerd } from "./lib/peers.ts";
import { Plugins } from "./lib/plugins.ts";

const { values: flags } = parseArgs({
  options: {
    rounds: { type: "string", default: "30" },
    burst: { type: "string", default: "20" },
    crowd: { type: "string", default: "200" },
    idle: { type: "string", default: "60" },
    json: { type: "string" },
  },
});
const [rounds, burstSize, crowdSize, idleSeconds] = [flags.rounds, flags.burst, flags.crowd, flags.idle].map(
  Number,
) as [number, number, number, number];
const BURST_WIDTH = 5;
/** Of the crowd, when the daemon is killed. */
const RESTARTED = Math.min(100, crowdSize);
const CGROUP_V2 = existsSync("/sys/fs/cgroup/cgroup.controllers");

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
}

async function burst(subject: Subject): Promise<Burst> {
  const kernelBefore = kernelMemory();
  const configs = Array.from({ length: burstSize }, sandboxConfig);
  let from = performance.now();
  const pods = await inParallel(configs, BURST_WIDTH, (config) => up(subject, config, false));
  const upMs = performance.now() - from;
  const memory = processesLike(subject.peer.perPod).reduce((sum, pid) => sum + pss(pid), 0);
  const podKernel = (kernelMemory() - kernelBefore) / burstSize;
  from = performance.now();
  await inParallel(pods, BURST_WIDTH, ({ pod, container }) => down(subject, pod, container, false));
  return { upMs, downMs: performance.now() - from, podPss: memory / burstSize, podKernel };
}

interface Results {
  readonly subjects: readonly Subject[];
  readonly alone: Record<string, number[]>;
  readonly idle: readonly number[];
  readonly bursts: readonly Burst[];
  readonly recoveries: readonly number[];
  readonly known: readonly number[];
}

async function measure(peers: readonly Peer[], alone: Record<string, number[]>): Promise<Results> {
  let subjects = peers.map((peer): Subject => ({ peer, client: connect(peer.socket), times: {} }));
  const memory = async (): Promise<number[]> => {
    await sleep(idleSeconds * 1000);
    return peers.map(({ service }) => daemonPss(service.pid));
  };
  for (const subject of subjects) await round({ ...subject, times: {} });
  const idle = await memory();
  const plugins = new Plugins(work, alone);
  try {
    for (let i = 0; i < rounds; i++) {
      for (const subject of subjects) await round(subject);
      await plugins.round();
    }
  } finally {
    await plugins.close();
  }
  const bursts: Burst[] = [];
  for (const subject of subjects) bursts.push(await burst(subject));
  const recoveries: number[] = [];
  const restarted: Subject[] = [];
  for (const subject of subjects) {
    await gather(subject, RESTARTED);
    const { recovered, subject: again } = await recovery(subject);
    recoveries.push(recovered);
    await gather(again, crowdSize - RESTARTED);
    await listAll(again);
    restarted.push(again);
  }
  subjects = restarted;
  const known = await memory();
  for (const subject of subjects) {
    await disperse(subject);
    subject.client.close();
  }
  return { subjects, alone, idle, bursts, recoveries, known };
}

function figuresOf({ subjects, alone, idle, bursts, recoveries, known }: Results): Figure[] {
  const [berth, peer] = subjects.map(({ times }) => times);
  const [ours, theirs] = bursts;
  if (!berth || !peer || !ours || !theirs) throw new Error("both runtimes must have been measured");
  const call = (name: string, most?: number, plugins?: readonly number[]): Figure =>
    callFigure(name, berth, peer, most === undefined ? undefined : { most }, plugins);
  const pair = (name: string, unit: Figure["unit"], values: readonly number[], aim?: Figure["aim"]): Figure => {
    const [own = NaN, other = NaN] = values;
    return { name, unit, berth: own, peer: other, ...(aim && { aim }) };
  };
  const made = [call("CreateContainer"), call("StartContainer", 0.1)];
  const inMb = (values: readonly number[]): number[] => values.map((bytes) => bytes / 1e6);
  return [
    call("RunPodSandbox", 0.5, alone["RunPodSandbox"]),
    ...made,
    sumFigure("CreateContainer + StartContainer", made, { most: 0.25 }),
    call("three calls up"),
    call("ExecSync", CGROUP_V2 ? 0.1 : 0.4),
    call("ContainerStatus"),
    call("ListContainers"),
    call("StopContainer", 0.2),
    call("RemoveContainer"),
    call("StopPodSandbox", 0.4, alone["StopPodSandbox"]),
    call("RemovePodSandbox", 0.6),
    pair(`${burstSize} pods, ${BURST_WIDTH} at once: up`, "ms", [ours.upMs, theirs.upMs], { most: 0.4 }),
    pair(`${burstSize} pods, ${BURST_WIDTH} at once: down`, "ms", [ours.downMs, theirs.downMs], { most: 0.4 }),
    ...["ListContainers", "ListPodSandbox", "ListContainerStats", "ContainerStatus", "PodSandboxStatus"].map((name) =>
      call(`${name}, ${crowdSize}`, name.startsWith("List") ? 1 : undefined),
    ),
    pair(`restart with ${RESTARTED} containers under load`, "ms", recoveries, { most: 2000, unit: "ms" }),
    pair("memory per pod, PSS", "KB", [ours.podPss / 1024, theirs.podPss / 1024], { most: 0.1 }),
    pair("kernel memory per pod", "KB", [ours.podKernel / 1024, theirs.podKernel / 1024]),
    pair(`daemon idle for ${idleSeconds} s, PSS`, "MB", inMb(idle), { most: 110, unit: "MB" }),
    pair(`the same with ${crowdSize} pods known`, "MB", inMb(known), { most: 200, unit: "MB" }),
  ];
}

const work = mkdtempSync("/var/tmp/berth-bench-");
const places = { work, run: mkdtempSync("/run/berth-bench-") };
const peers: Peer[] = [];
try {
  const images = await makeImages(work);
  peers.push(await startBerth(places, images.busybox));
  peers.push(await startContainerd(places, images.busybox, images.pause));
  const results = await measure(peers, {});
  console.log(table([HEADING, ...figuresOf(results).map(row)]));
  if (flags.json !== undefined) {
    const { subjects, ...rest } = results;
    const times = subjects.map(({ peer, times: own }) => ({ name: peer.name, times: own }));
    writeFileSync(flags.json, JSON.stringify({ times, ...rest }, null, 1));
  }
} catch (error) {
  // Told first: what is left of a run that failed may not be removable.
  console.error(error);
  process.exitCode = 1;
} finally {
  for (const peer of peers) {
    const client = connect(peer.socket);
    await disperse({ peer, client, times: {} });
    client.close();
    await peer.service.stop();
    await run(["ip", "link", "delete", peer.bridge]);
  }
  for (const dir of [work, places.run]) rmSync(dir, { recursive: true, force: true });
}
