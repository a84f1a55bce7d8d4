/** A worker thread's main module: jobs as pool.ts asks for them, side by side. */
import { parentPort } from "node:worker_threads";
import { appendHashTree, hashImage } from "../erofs/hash-tree.ts";
import { fromPlain, toPlain } from "../errors.ts";
import { HttpClient } from "../registry/http.ts";
import { RegistryClient } from "../registry/client.ts";
import { listReferrers, listTags } from "../registry/referrers.ts";
import { mergeLayers } from "../snapshots/merge.ts";
import { fetchSignatures } from "../verify/signature.ts";
import { takeApart } from "./archive-job.ts";
import { unpackArchive, writeChanges } from "./changes-job.ts";
import { compareLayers } from "./compare-job.ts";
import { completeLayer } from "./complete-job.ts";
import type { JobName, JobProgress, Jobs, RemoteSource } from "./jobs.ts";
import { copyBlob, digestOfFile, unpackLayer } from "./layer-job.ts";
import type { FromWorker, ToWorker } from "./pool.ts";
import { pushBlob, pushManifest } from "./push-job.ts";
import { resolveImage } from "./resolve-job.ts";
import { openTarget } from "./targets.ts";

/** What a job has besides its request. */
export interface JobContext {
  readonly signal: AbortSignal;
  /** The chunks that the caller sends. */
  readonly input: () => AsyncIterable<Uint8Array>;
  readonly progress: (progress: JobProgress) => void;
  readonly registry: (source: RemoteSource) => RegistryClient;
}

type Job<N extends JobName> = (request: Jobs[N]["request"], context: JobContext) => Promise<Jobs[N]["result"]>;

const JOBS: { readonly [N in JobName]: Job<N> } = {
  resolve: resolveImage,
  fetch: async ({ source, descriptor, limit }, { registry }) => {
    const client = registry(source);
    return { bytes: await client.small(descriptor, limit), session: client.session };
  },
  layer: unpackLayer,
  compare: async (request) => compareLayers(request),
  digest: async ({ path, digest }) => await digestOfFile(path, digest),
  hashTree: async ({ path, append }) => await (append ? appendHashTree(path) : hashImage(path)),
  complete: completeLayer,
  merge: async ({ layers, directory, tree }) => {
    await mergeLayers(layers, await openTarget({ kind: "tree", directory }, tree));
    return undefined;
  },
  changes: writeChanges,
  unpack: unpackArchive,
  archive: takeApart,
  copy: copyBlob,
  document: async ({ source, digest }, { registry }) => {
    const client = registry(source);
    return { document: await client.manifest(digest), session: client.session };
  },
  pushBlob: async (request, context) => await pushBlob(request, context, http),
  pushManifest: async (request, context) => await pushManifest(request, context, http),
  login: async ({ source }, { registry }) => await registry(source).login(),
  signatures: async ({ source, digest }, { registry }) => await fetchSignatures(registry(source), digest),
  tags: async ({ source }, { registry }) => await listTags(registry(source)),
  referrers: async ({ source, digest, artifactType }, { registry }) =>
    await listReferrers(registry(source), digest, artifactType),
};

const PROGRESS_INTERVAL = 50;

if (parentPort === null) throw new Error("worker.ts runs as a worker only");
const port = parentPort;
const http = new HttpClient();
const post = (message: FromWorker): void => port.postMessage(message);
interface Running {
  readonly abort: AbortController;
  deliver: ((message: ToWorker) => void) | undefined;
}
const running = new Map<number, Running>();

port.on("message", (message: ToWorker) => {
  if (message.type === "job") return void work(message.id, message.name, message.request);
  if (message.type === "ping") return post({ type: "pong" });
  const job = running.get(message.id);
  if (message.type === "abort") job?.abort.abort(fromPlain(message.reason));
  else job?.deliver?.(message);
});

async function work(id: number, name: JobName, request: unknown): Promise<void> {
  const job: Running = { abort: new AbortController(), deliver: undefined };
  running.set(id, job);
  const { signal } = job.abort;
  let last = 0;
  const context: JobContext = {
    signal,
    input: () => received(id, job),
    progress: (progress) => {
      const now = performance.now();
      if (now - last < PROGRESS_INTERVAL && progress.doneBytes < progress.totalBytes) return;
      last = now;
      post({ type: "progress", id, progress });
    },
    registry: (source) => new RegistryClient(http, { ...source, signal }),
  };
  try {
    post({ type: "done", id, result: await (JOBS[name] as Job<JobName>)(request as never, context) });
  } catch (error) {
    post({ type: "failed", id, error: toPlain(signal.aborted ? signal.reason : error) });
  } finally {
    running.delete(id);
  }
}

/** Chunks from the main thread, each asked for when the one before is used up. */
async function* received(id: number, job: Running): AsyncGenerator<Uint8Array, void, undefined> {
  const { signal } = job.abort;
  for (;;) {
    const message = await new Promise<ToWorker>((resolve, reject) => {
      if (signal.aborted) return reject(signal.reason as Error);
      signal.addEventListener("abort", () => reject(signal.reason as Error), { once: true });
      job.deliver = resolve;
      post({ type: "more", id });
    });
    if (message.type !== "chunk") return;
    yield message.bytes;
  }
}
