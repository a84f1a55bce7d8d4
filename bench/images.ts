/**
 * PullImage through one gRPC client, berthd and Debian's containerd in turn, from Debian's docker-registry on loopback, with
 * cold caches: medians, ratios, peak memory, and how close a pull is to inflating and hashing alone.
 *
 *   sudo bench/run images [--rounds 3] [--only files,layers,large,shared] [--json FILE]
 */
import { mkdirSync, mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { parseArgs } from "node:util";
import { connectCri, type CriClient } from "./lib/client.ts";
import { median, table } from "./lib/figures.ts";
import { peak, resetPeak } from "./lib/memory.ts";
import { makeImages, type Peer, startBerth, startContainerd } from "./lib/peers.ts";
import { run } from "./lib/process.ts";
import { floor, type Layer, makeLayer, push, startRegistry, writeFiles, writeLarge } from "./lib/registry.ts";

const { values: flags } = parseArgs({
  options: {
    rounds: { type: "string", default: "3" },
    only: { type: "string", default: "files,layers,large,shared" },
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

async function pull(client: CriClient, reference: string): Promise<number> {
  const before = performance.now();
  await client.image.pullImage({ image: { image: reference } });
  return performance.now() - before;
}

async function measure(
  peer: Peer,
  client: CriClient,
  reference: string,
  before: string | undefined,
  into: Measured,
): Promise<void> {
  if (before !== undefined) await pull(client, before);
  await coldCaches();
  resetPeak(peer.service.pid);
  into.ms.push(await pull(client, reference));
  into.peak = Math.max(into.peak, peak(peer.service.pid));
  for (const each of [reference, before])
    if (each !== undefined) await client.image.removeImage({ image: { image: each } });
}

const stops: (() => Promise<void>)[] = [];
try {
  const registry = await startRegistry(work);
  stops.push(() => registry.service.stop());
  const cases = await makeCases(new Set(flags.only.split(",")));
  const archives = await makeImages(work);
  const peers: Peer[] = [];
  const join = (peer: Peer): void => {
    peers.push(peer);
    stops.push(() => peer.service.stop());
  };
  join(await startBerth(places, archives.busybox));
  join(await startContainerd(places, archives.busybox, archives.pause));
  const clients = peers.map(({ socket }) => connectCri(socket));
  const rows = [
    ["median ms", "berth", "containerd", "ratio", "aim", "floor", "berth/floor", "peak memory", "peak memory"],
  ];
  const results: object[] = [];
  let firstMs: number | undefined;
  for (const { name, title, layers, before, aim } of cases) {
    const reference = await push(registry, `bench/${name}`, layers);
    const first = before === undefined ? undefined : await push(registry, `bench/${name}-before`, before);
    const measured = peers.map((): Measured => ({ ms: [], peak: 0 }));
    for (let round = 0; round < rounds; round++)
      for (const [i, peer] of peers.entries())
        await measure(peer, clients[i] as CriClient, reference, first, measured[i] as Measured);
    const fresh = layers.filter((layer) => before?.includes(layer) !== true);
    await coldCaches();
    const least = await floor(fresh);
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
      least.toFixed(0),
      (ours / least).toFixed(2),
      mb(0),
      mb(1),
    ]);
    results.push({ name, floor: least, measured });
  }
  console.log(table(rows));
  if (flags.json !== undefined) writeFileSync(flags.json, JSON.stringify(results, null, 1));
  for (const client of clients) client.close();
} finally {
  for (const stop of stops.reverse()) await stop();
  for (const dir of [work, places.run]) rmSync(dir, { recursive: true, force: true });
}
