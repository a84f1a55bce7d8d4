/** ContainerStats and ListContainerStats, from the container's cgroup files. */
import { create } from "@bufbuild/protobuf";
import { readCgroupStats } from "@berth/kernel";
import { cri } from "@berth/spec";
import { now } from "../clock.ts";
import type { CriContext } from "../context.ts";
import { matchesLabels } from "../labels.ts";
import type { Container } from "../store/records.ts";

export async function containerStats(
  context: CriContext,
  request: cri.ContainerStatsRequest,
): Promise<cri.ContainerStatsResponse> {
  return create(cri.ContainerStatsResponseSchema, {
    stats: await statsOf(context, context.containers.get(request.containerId)),
  });
}

export async function listContainerStats(
  context: CriContext,
  request: cri.ListContainerStatsRequest,
): Promise<cri.ListContainerStatsResponse> {
  const { filter } = request;
  const running = context.containers
    .values()
    .filter(({ record }) => record.phase === "running")
    .filter(({ record }) => !filter?.id || record.id.startsWith(filter.id))
    .filter(({ record }) => !filter?.podSandboxId || record.sandboxId.startsWith(filter.podSandboxId))
    .filter(({ record }) => matchesLabels(record.config.labels, filter?.labelSelector));
  return create(cri.ListContainerStatsResponseSchema, {
    stats: await Promise.all(running.map((container) => statsOf(context, container))),
  });
}

async function statsOf(context: CriContext, { record }: Container): Promise<cri.ContainerStats> {
  const { config } = record;
  const attributes = {
    id: record.id,
    metadata: config.metadata,
    labels: config.labels,
    annotations: config.annotations,
  };
  const layer = await context.images.rootfsUsage(record.id);
  const writableLayer = {
    timestamp: now(),
    fsId: { mountpoint: context.paths.root },
    usedBytes: { value: BigInt(layer.bytes) },
    inodesUsed: { value: BigInt(layer.inodes) },
  };
  if (record.phase !== "running") return create(cri.ContainerStatsSchema, { attributes, writableLayer });
  const stats = await readCgroupStats(record.cgroupPath, context.host);
  const timestamp = now();
  return create(cri.ContainerStatsSchema, {
    attributes,
    cpu: { timestamp, usageCoreNanoSeconds: { value: stats.cpuNs } },
    memory: {
      timestamp,
      workingSetBytes: { value: stats.workingSetBytes },
      usageBytes: { value: stats.memoryBytes },
      rssBytes: { value: stats.rssBytes },
      pageFaults: { value: stats.pageFaults },
      majorPageFaults: { value: stats.majorPageFaults },
    },
    writableLayer,
  });
}
