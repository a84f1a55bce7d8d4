/**
 * PullImage through one gRPC client, berthd and Debian's containerd in turn, from Debian's docker-registry on loopback, with
 * cold caches: medians, ratios, processor time, peak memory, and how close a pull is to inflating and hashing alone, on one
 * processor and as parallel as berth does them. "many" pulls twenty images at once, and says how long other calls wait meanwhile.
 *
 *   sudo bench/run images [--rounds 3] [--only files,layers,large,shared,many] [--json FILE]
 */
import { mkdirSync, mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { setTimeout as delay } from "node:timers/promises";
import { parseArgs } from "node:util";
import { type Client, connect } from "@berth/cli";
import { median, percentile, table } from "./lib/figures.ts";
import { floor } from "./lib/floor.ts";
import { peak, processorTime, resetPeak } from "./lib/memory.ts";
import { makeImages, type Peer, startBerth, startContainerd } from "./lib/peers.ts";
import { run } from "./lib/process.ts";
import { type Layer, makeLayer, push, type Registry, startRegistry, writeFiles, writeLarge } from "./lib/registry.ts";

const { values: flags } = parseArgs({
  options: {
    rounds: { type: "string", default: "3" },
    only: { type: "string", default: "files,layers,large,shared,many" },
    json: { type: "string" },
  },
});
const rounds = Number(flags.rounds);

interface Case {
  readonly name: string;
  readonly title: string;
  readonly layers: readonly Layer[];
  /** An image that is pulled before, unmeasured: the ratio is to berth's own time for the first image. */
  readonly before?: readonly Layer[];
  readonly aim: number;
}

interface Measured {
  readonly ms: number[];
  readonly processor: number[];
  peak: number;
}

const work = mkdtempSync("/var/tmp/berth-bench-");
const places = { work, run: mkdtempSync("/run/berth-bench-") };

async function layerOf(name: string, fill: (directory: string) => void): Promise<Layer> {
  const directory = `${work}/${name}`;
  mkdirSync(directory, { recursive: true });
  fill(directory);
  return await makeLayer(directory);
}

async function makeCases(wanted: ReadonlySet<string>): Promise<Case[]> {
  const cases: Case[] = [];
  const files = async (): Promise<Layer> => await layerOf("files", (dir) => writeFiles(dir, 10_000, 23_300, 1));
  const base = wanted.has("files") || wanted.has("shared") ? await files() : undefined;
  if (base !== undefined && wanted.has("files"))
    cases.push({ name: "files", title: `10,000 files, ${size(base)} gzip`, layers: [base], aim: 0.5 });
  if (wanted.has("layers")) {
    const layers: Layer[] = [];
    for (let i = 0; i < 60; i++) layers.push(await layerOf(`layer${i}`, (dir) => writeFiles(dir, 20, 4000, 100 + i)));
    cases.push({ name: "layers", title: "60 layers of 20 files", layers, aim: 0.5 });
  }
  if (wanted.has("large")) {
    const layer = await layerOf("large", (dir) => writeLarge(`${dir}/large`, 400, 2));
    cases.push({ name: "large", title: `one file of 400 MB, ${size(layer)} gzip`, layers: [layer], aim: 0.7 });
  }
  if (base !== undefined && wanted.has("shared")) {
    const top = await layerOf("top", (dir) => writeFiles(dir, 20, 4000, 3));
    cases.push({
      name: "shared",
      title: "the same and a small layer, of the first",
      layers: [base, top],
      before: [base],
      aim: 0.1,
    });
  }
  return cases;
}

const size = (layer: Layer): string => `${Math.round(layer.size / 1e6)} MB`;

/** Both the registry's and the runtimes' files. */
const coldCaches = async (): Promise<void> => {
  await run(["sync"]);
  writeFileSync("/proc/sys/vm/drop_caches", "3");
};

async function pull(client: Client, reference: string): Promise<number> {
  const before = performance.now();
  await client.images.pullImage({ image: { image: reference } });
  return performance.now() - before;
}

async function measure(
  peer: Peer,
  client: Client,
  reference: string,
  before: string | undefined,
  into: Measured,
): Promise<void> {
  if (before !== undefined) await pull(client, before);
  await coldCaches();
  resetPeak(peer.service.pid);
  const processor = processorTime(peer.service.pid);
  into.ms.push(await pull(client, reference));
  into.processor.push(processorTime(peer.service.pid) - processor);
  into.peak = Math.max(into.peak, peak(peer.service.pid));
  for (const each of [reference, before])
    if (each !== undefined) await client.images.removeImage({ image: { image: each } });
}

/** Milliseconds that calls for the version take, one after the other, until the work is done. */
async function callsDuring(client: Client, work: Promise<unknown>): Promise<number[]> {
  const times: number[] = [];
  const over = new AbortController();
  const ended = work.finally(() => over.abort());
  while (!over.signal.aborted) {
    const before = performance.now();
    await client.runtime.version({});
    times.push(performance.now() - before);
    await delay(2);
  }
  await ended;
  return times;
}

const MANY = 20;

async function measureMany(registry: Registry, peers: readonly Peer[], clients: readonly Client[]): Promise<string> {
  const references: string[] = [];
  for (let i = 0; i < MANY; i++) {
    const layers: Layer[] = [];
    for (let j = 0; j < 3; j++)
      layers.push(await layerOf(`many${i}-${j}`, (dir) => writeFiles(dir, 100, 20_000, 1000 + 3 * i + j)));
    references.push(await push(registry, `bench/many${i}`, layers));
  }
  const rows = [
    ["20 images at once", "ms", "idle call, median", "call meanwhile, median", "99 of 100", "longest", "peak"],
  ];
  for (const [i, peer] of peers.entries()) {
    const client = clients[i] as Client;
    await coldCaches();
    const idle = await callsDuring(client, delay(500));
    resetPeak(peer.service.pid);
    const before = performance.now();
    let took = 0;
    const pulls = Promise.all(references.map(async (each) => await pull(client, each)));
    const times = await callsDuring(
      client,
      pulls.then(() => (took = performance.now() - before)),
    );
    const figures = [median(idle), median(times), percentile(times, 99), Math.max(...times)];
    rows.push([
      peer.name,
      took.toFixed(0),
      ...figures.map((figure) => figure.toFixed(1)),
      `${Math.round(peak(peer.service.pid) / 1e6)} MB`,
    ]);
    for (const image of references) await client.images.removeImage({ image: { image } });
  }
  return table(rows);
}

const stops: (() => Promise<void>)[] = [];
try {
  const registry = await startRegistry(work);
  stops.push(() => registry.service.stop());
  const wanted = new Set(flags.only.split(","));
  const cases = await makeCases(wanted);
  const archives = await makeImages(work);
  const peers: Peer[] = [];
  const join = (peer: Peer): void => {
    peers.push(peer);
    stops.push(() => peer.service.stop());
  };
  join(await startBerth(places, archives.busybox));
  join(await startContainerd(places, archives.busybox, archives.pause));
  const clients = peers.map(({ socket }) => connect(socket));
  const rows = [
    [
      "median ms",
      "berth",
      "containerd",
      "ratio",
      "aim",
      "floor: one",
      "parallel",
      "berth/floor",
      "CPU",
      "CPU",
      "peak",
      "peak",
    ],
  ];
  const results: object[] = [];
  let firstMs: number | undefined;
  for (const { name, title, layers, before, aim } of cases) {
    const reference = await push(registry, `bench/${name}`, layers);
    const first = before === undefined ? undefined : await push(registry, `bench/${name}-before`, before);
    const measured = peers.map((): Measured => ({ ms: [], processor: [], peak: 0 }));
    for (let round = 0; round < rounds; round++)
      for (const [i, peer] of peers.entries())
        await measure(peer, clients[i] as Client, reference, first, measured[i] as Measured);
    const fresh = layers.filter((layer) => before?.includes(layer) !== true);
    const floors: number[] = [];
    for (const single of [true, false]) {
      await coldCaches();
      const files = fresh.map(({ path }) => path);
      floors.push(await floor(files, single));
    }
    const [one, least] = floors as [number, number];
    const [ours, theirs] = measured.map(({ ms }) => median(ms)) as [number, number];
    const against = before === undefined ? theirs : (firstMs ?? theirs);
    firstMs ??= ours;
    const mb = (at: number): string => `${Math.round((measured[at]?.peak ?? 0) / 1e6)} MB`;
    rows.push([
      title,
      ours.toFixed(0),
      theirs.toFixed(0),
      (ours / against).toFixed(2),
      `≤ ${aim}`,
      one.toFixed(0),
      least.toFixed(0),
      (ours / least).toFixed(2),
      ...measured.map(({ processor }) => median(processor).toFixed(0)),
      mb(0),
      mb(1),
    ]);
    results.push({ name, floor: { one, parallel: least }, measured });
  }
  if (cases.length > 0) console.log(table(rows));
  if (wanted.has("many")) console.log(`\n${await measureMany(registry, peers, clients)}`);
  if (flags.json !== undefined) writeFileSync(flags.json, JSON.stringify(results, null, 1));
  for (const client of clients) client.close();
} finally {
  for (const stop of stops.reverse()) await stop();
  for (const dir of [work, places.run]) rmSync(dir, { recursive: true, force: true });
}
