/** The services on berthd's socket: which verb answers which call. A call that is not listed answers Unimplemented. */
import { create } from "@bufbuild/protobuf";
import { type berth, cri } from "@berth/spec";
import { berthHandlers } from "./berth-service.ts";
import { createContainer } from "./container/create.ts";
import { execSync } from "./container/exec.ts";
import { reopenContainerLog } from "./container/logs.ts";
import { removeContainer } from "./container/remove.ts";
import { startContainer } from "./container/start.ts";
import { checkpointContainer } from "./container/checkpoint.ts";
import { containerStats, listContainerStats } from "./container/stats.ts";
import { containerItems, getContainerStatus, listContainers } from "./container/status.ts";
import { stopContainer } from "./container/stop.ts";
import { updateContainerResources } from "./container/update.ts";
import type { CriContext } from "./context.ts";
import { imageFsInfo, imageStatus, listImages, pullImage, removeImage } from "./image/verbs.ts";
import { updateRuntimeConfig } from "./runtime-config.ts";
import { runtimeConfig, runtimeStatus, version } from "./runtime-status.ts";
import { listMetricDescriptors } from "./metrics/descriptors.ts";
import { podSandboxMetrics } from "./metrics/list.ts";
import { removePodSandbox } from "./sandbox/remove.ts";
import { runPodSandbox } from "./sandbox/run.ts";
import { listSandboxes, podSandboxStatus, sandboxItems } from "./sandbox/status.ts";
import { listPodSandboxStats, podSandboxStats } from "./sandbox/stats.ts";
import { stopPodSandbox } from "./sandbox/stop.ts";
import { updatePodSandboxResources } from "./sandbox/update.ts";
import type { Handlers, Send } from "./server/grpc.ts";
import type { StreamingServer } from "./streaming/server.ts";
import { attach, exec, portForward } from "./streaming/verbs.ts";

export function runtimeHandlers(context: CriContext, streaming: StreamingServer): Handlers<typeof cri.RuntimeService> {
  const [podItems, items] = [sandboxItems(), containerItems(context)];
  return {
    version: () => version(context),
    status: (request) => runtimeStatus(context, request),
    runtimeConfig: () => runtimeConfig(context),
    updateRuntimeConfig: (request) => updateRuntimeConfig(context, request),
    runPodSandbox: (request, signal) => runPodSandbox(context, request, signal),
    stopPodSandbox: (request, signal) => stopPodSandbox(context, request, signal),
    removePodSandbox: (request, signal) => removePodSandbox(context, request, signal),
    podSandboxStatus: (request) => podSandboxStatus(context, request),
    listPodSandbox: (request) => Promise.resolve(podItems.encode(listSandboxes(context, request.filter))),
    streamPodSandboxes: (request, _signal, send) =>
      batches(listSandboxes(context, request.filter), send, (records) => podItems.encode(records)),
    createContainer: (request, signal) => createContainer(context, request, signal),
    startContainer: (request, signal) => startContainer(context, request, signal),
    stopContainer: (request, signal) => stopContainer(context, request, signal),
    removeContainer: (request, signal) => removeContainer(context, request, signal),
    containerStatus: (request) => getContainerStatus(context, request),
    listContainers: (request) => Promise.resolve(items.encode(listContainers(context, request.filter))),
    streamContainers: (request, _signal, send) =>
      batches(listContainers(context, request.filter), send, (records) => items.encode(records)),
    updateContainerResources: (request, signal) => updateContainerResources(context, request, signal),
    reopenContainerLog: (request, signal) => reopenContainerLog(context, request, signal),
    execSync: (request, signal) => execSync(context, request, signal),
    exec: (request) => exec(context, streaming, request),
    attach: (request) => attach(context, streaming, request),
    portForward: (request) => portForward(context, streaming, request),
    containerStats: (request) => containerStats(context, request),
    listContainerStats: async (request) =>
      create(cri.ListContainerStatsResponseSchema, { stats: await listContainerStats(context, request.filter) }),
    streamContainerStats: async (request, _signal, send) =>
      await batches(await listContainerStats(context, request.filter), send, (stats) =>
        create(cri.StreamContainerStatsResponseSchema, { containerStats: stats }),
      ),
    podSandboxStats: (request) => podSandboxStats(context, request),
    listPodSandboxStats: async (request) =>
      create(cri.ListPodSandboxStatsResponseSchema, { stats: await listPodSandboxStats(context, request.filter) }),
    streamPodSandboxStats: async (request, _signal, send) =>
      await batches(await listPodSandboxStats(context, request.filter), send, (podSandboxStats) =>
        create(cri.StreamPodSandboxStatsResponseSchema, { podSandboxStats }),
      ),
    updatePodSandboxResources: (request, signal) => updatePodSandboxResources(context, request, signal),
    checkpointContainer: (request, signal) => checkpointContainer(context, request, signal),
    getContainerEvents: (_request, signal, send) => context.events.follow(signal, send),
    listMetricDescriptors,
    listPodSandboxMetrics: async () =>
      create(cri.ListPodSandboxMetricsResponseSchema, { podMetrics: await podSandboxMetrics(context) }),
    streamPodSandboxMetrics: async (_request, _signal, send) =>
      await batches(await podSandboxMetrics(context), send, (podSandboxMetrics) =>
        create(cri.StreamPodSandboxMetricsResponseSchema, { podSandboxMetrics }),
      ),
  };
}

export function imageHandlers(context: CriContext): Handlers<typeof cri.ImageService> {
  return {
    listImages: (request) =>
      Promise.resolve(create(cri.ListImagesResponseSchema, { images: listImages(context, request.filter) })),
    streamImages: (request, _signal, send) =>
      batches(listImages(context, request.filter), send, (images) =>
        create(cri.StreamImagesResponseSchema, { images }),
      ),
    imageStatus: (request) => imageStatus(context, request),
    pullImage: (request, signal) => pullImage(context, request, signal),
    removeImage: (request) => removeImage(context, request),
    imageFsInfo: () => imageFsInfo(context),
  };
}

export const ownHandlers = (context: CriContext): Handlers<typeof berth.Berth> => berthHandlers(context);

/** Items in one message of a streamed list. */
const BATCH = 100;

async function batches<I, M>(items: readonly I[], send: Send<M>, message: (batch: I[]) => M): Promise<void> {
  for (let at = 0; at < items.length; at += BATCH) await send(message(items.slice(at, at + BATCH)));
}
