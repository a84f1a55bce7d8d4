/** ContainerStats and ListContainerStats, from the container's cgroup files. */
import { create } from "@bufbuild/protobuf";
import type { CgroupStats } from "@berth/kernel";
import { cri } from "@berth/spec";
import { now } from "../clock.ts";
import type { CriContext } from "../context.ts";
import { matchesLabels } from "../labels.ts";
import { kindOf } from "../runtimes/find.ts";
import { usageOf } from "../stats/messages.ts";
import type { Container } from "../store/records.ts";

export async function containerStats(
  context: CriContext,
  request: cri.ContainerStatsRequest,
): Promise<cri.ContainerStatsResponse> {
  const container = context.containers.get(request.containerId);
  return create(cri.ContainerStatsResponseSchema, {
    stats: await statsOf(context, container, await cgroupStatsOf(context, container)),
  });
}

/** Of running containers: one that ends meanwhile is left out. */
export async function listContainerStats(
  context: CriContext,
  filter: cri.ContainerStatsFilter | undefined,
): Promise<cri.ContainerStats[]> {
  const running = context.containers
    .values()
    .filter(({ record }) => record.phase === "running")
    .filter(({ record }) => !filter?.id || record.id.startsWith(filter.id))
    .filter(({ record }) => !filter?.podSandboxId || record.sandboxId.startsWith(filter.podSandboxId))
    .filter(({ record }) => matchesLabels(record.config.labels, filter?.labelSelector));
  const all = await Promise.all(
    running.map(async (container) => {
      const cgroup = await cgroupStatsOf(context, container);
      return cgroup && (await statsOf(context, container, cgroup));
    }),
  );
  return all.filter((stats) => stats !== undefined);
}

/** Undefined for a container that does not run, or whose cgroup has just gone. */
export async function cgroupStatsOf(context: CriContext, { record }: Container): Promise<CgroupStats | undefined> {
  if (record.phase !== "running") return undefined;
  return await kindOf(context, record).stats(context, record);
}

export async function statsOf(
  context: CriContext,
  container: Container,
  cgroup: CgroupStats | undefined,
): Promise<cri.ContainerStats> {
  const { config, id } = container.record;
  const layer = await context.images.rootfsUsage(id);
  const timestamp = now();
  return create(cri.ContainerStatsSchema, {
    attributes: { id, metadata: config.metadata, labels: config.labels, annotations: config.annotations },
    ...(cgroup && usageOf(cgroup, timestamp, container)),
    writableLayer: {
      timestamp,
      fsId: { mountpoint: context.paths.root },
      usedBytes: { value: BigInt(layer.bytes) },
      inodesUsed: { value: BigInt(layer.inodes) },
    },
  });
}
