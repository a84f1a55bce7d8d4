/** What berth's own command needs beyond the CRI (berth/v1/berth.proto). */
import { release } from "node:os";
import { create } from "@bufbuild/protobuf";
import type { ImageRecord } from "@berth/image";
import { describePlan } from "@berth/runtime";
import { berth } from "@berth/spec";
import { specOf } from "./container/running.ts";
import { type CriContext, logRoot } from "./context.ts";
import { notFound } from "./errors.ts";
import { platformOf, registryHandlers } from "./image/registry.ts";
import { storeHandlers } from "./image/store.ts";
import { kindOf } from "./runtimes/find.ts";
import type { Handlers } from "./server/grpc.ts";

export function berthHandlers(context: CriContext): Handlers<typeof berth.Berth> {
  return {
    info: () => Promise.resolve(info(context)),
    ...registryHandlers(context),
    ...storeHandlers(context),
    import: (requests, signal) => importArchive(context, requests, signal),
    plan: (request) => planOf(context, request),
    trace: (request) => Promise.resolve(trace(context, request)),
  };
}

function info(context: CriContext): berth.InfoResponse {
  const { host, paths, config } = context;
  return create(berth.InfoResponseSchema, {
    version: config.version,
    root: paths.root,
    state: paths.state,
    logRoot: logRoot(context),
    snapshotter: context.images.snapshotter,
    cgroupMode: host.cgroups.mode,
    kernel: release(),
    nodeVersion: process.version,
    pid: process.pid,
    pods: context.sandboxes.size,
    containers: context.containers.size,
    images: context.images.list().length,
    handlers: [...context.runtimes.handlers.keys()],
    warnings: [...host.warnings],
  });
}

async function importArchive(
  context: CriContext,
  requests: AsyncIterable<berth.ImportRequest>,
  signal: AbortSignal,
): Promise<berth.ImportResponse> {
  const iterator = requests[Symbol.asyncIterator]();
  const first = await iterator.next();
  const { name, platform } = first.done ? { name: "", platform: "" } : first.value;
  async function* chunks(): AsyncGenerator<Uint8Array> {
    for (let next = first; !next.done; next = await iterator.next()) {
      signal.throwIfAborted();
      if (next.value.chunk.length > 0) yield next.value.chunk;
    }
  }
  const options = { signal, ...(name !== "" && { name }), ...platformOf(platform) };
  const images = await context.images.importArchive(chunks(), options);
  return create(berth.ImportResponseSchema, {
    images: images.map((image: ImageRecord) => ({ id: image.id, references: [...image.tags, ...image.digests] })),
  });
}

/** Spans are kept for a while after their pod has gone, so an id that is whole need not be known any more. */
function trace({ sandboxes, containers, telemetry }: CriContext, request: berth.TraceRequest): berth.TraceResponse {
  const podSandboxId = sandboxes.find(request.podSandboxId)?.record.id ?? request.podSandboxId;
  const spans = telemetry.spansOf(podSandboxId).map(({ container, ...span }) => ({
    ...span,
    containerId: container,
    containerName: (container !== "" && containers.find(container)?.record.config.metadata?.name) || "",
  }));
  if (spans.length === 0) throw notFound("trace of pod sandbox", request.podSandboxId);
  return create(berth.TraceResponseSchema, { podSandboxId, spans });
}

/** The plan is a pure function of what was recorded, so that it can be made again to be shown. */
async function planOf(context: CriContext, request: berth.PlanRequest): Promise<berth.PlanResponse> {
  const container = context.containers.get(request.containerId);
  const spec = await specOf(context, container);
  const plan = kindOf(context, container.record).explain(context, container, spec);
  return create(berth.PlanResponseSchema, { orders: describePlan(plan) });
}
