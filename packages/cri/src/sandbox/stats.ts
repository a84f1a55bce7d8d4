/** PodSandboxStats and ListPodSandboxStats: the pod's cgroup, its interfaces, and its containers. */
import { create } from "@bufbuild/protobuf";
import { type CgroupStats, type InterfaceUsage, readCgroupStats, readInterfaces } from "@berth/kernel";
import { cri } from "@berth/spec";
import { now } from "../clock.ts";
import { cgroupStatsOf, statsOf } from "../container/stats.ts";
import { cgroupParentOf } from "../cgroups.ts";
import type { CriContext } from "../context.ts";
import { matchesLabels } from "../labels.ts";
import { kindOfPod } from "../runtimes/find.ts";
import { isGone } from "../runtimes/host-cgroup.ts";
import { networkOf, usageOf } from "../stats/messages.ts";
import type { Container, Sandbox } from "../store/records.ts";
import { containersOf } from "./stop.ts";

export async function podSandboxStats(
  context: CriContext,
  request: cri.PodSandboxStatsRequest,
): Promise<cri.PodSandboxStatsResponse> {
  return create(cri.PodSandboxStatsResponseSchema, {
    stats: await podStatsOf(context, context.sandboxes.get(request.podSandboxId)),
  });
}

/** Of the pods that are ready. */
export async function listPodSandboxStats(
  context: CriContext,
  filter: cri.PodSandboxStatsFilter | undefined,
): Promise<cri.PodSandboxStats[]> {
  const ready = context.sandboxes
    .values()
    .filter(({ record }) => record.phase === "ready")
    .filter(({ record }) => !filter?.id || record.id.startsWith(filter.id))
    .filter(({ record }) => matchesLabels(record.config.labels, filter?.labelSelector));
  return await Promise.all(ready.map((sandbox) => podStatsOf(context, sandbox)));
}

async function podStatsOf(context: CriContext, sandbox: Sandbox): Promise<cri.PodSandboxStats> {
  const { record } = sandbox;
  const { config, id } = record;
  const attributes = { id, metadata: config.metadata, labels: config.labels, annotations: config.annotations };
  if (record.phase !== "ready") return create(cri.PodSandboxStatsSchema, { attributes });
  const containers = containersOf(context, id);
  const [usages, interfaces] = await Promise.all([
    Promise.all(containers.map((container) => cgroupStatsOf(context, container))),
    interfacesOf(context, sandbox, containers),
  ]);
  const measured = usages.filter((stats) => stats !== undefined);
  const pod = await podCgroupStats(context, sandbox, measured);
  const timestamp = now();
  const { cpu, memory, io } = usageOf(pod, timestamp, sandbox);
  const running = containers.flatMap((container, index) => {
    const stats = usages[index];
    return stats ? [statsOf(context, container, stats)] : [];
  });
  return create(cri.PodSandboxStatsSchema, {
    attributes,
    linux: {
      cpu,
      memory,
      io,
      network: interfaces && networkOf(interfaces, timestamp),
      process: { timestamp, processCount: { value: measured.reduce((sum, stats) => sum + stats.pids, 0n) } },
      containers: await Promise.all(running),
    },
  });
}

/** Undefined for a pod on the host's network: the host's traffic is not the pod's. */
export async function interfacesOf(
  context: CriContext,
  sandbox: Sandbox,
  containers: readonly Container[],
): Promise<InterfaceUsage[] | undefined> {
  const { netns, phase } = sandbox.record;
  if (netns === undefined || phase !== "ready") return undefined;
  if (kindOfPod(context, sandbox.record).ownsPods) return await readInterfaces(context.hand, netns, undefined);
  const pid = sandbox.init?.pid ?? containers.find(({ record }) => record.phase === "running")?.record.pid;
  return await readInterfaces(context.hand, netns, pid);
}

/** The cgroup that the kubelet made for the pod; a pod without one of its own is the sum of its containers. */
async function podCgroupStats(
  context: CriContext,
  { record }: Sandbox,
  containers: readonly CgroupStats[],
): Promise<CgroupStats> {
  const parent = record.config.linux?.cgroupParent ?? "";
  if (parent === "" || parent === "/") return sumOf(containers);
  try {
    return await readCgroupStats(cgroupParentOf(context, record), context.host);
  } catch (error) {
    // Made with the pod's first container where the caller has not made it.
    if (isGone(error)) return sumOf(containers);
    throw error;
  }
}

function sumOf(all: readonly CgroupStats[]): CgroupStats {
  const total = (pick: (stats: CgroupStats) => bigint): bigint => all.reduce((sum, stats) => sum + pick(stats), 0n);
  return {
    cpuNs: total((stats) => stats.cpuNs),
    memoryBytes: total((stats) => stats.memoryBytes),
    workingSetBytes: total((stats) => stats.workingSetBytes),
    rssBytes: total((stats) => stats.rssBytes),
    pageFaults: total((stats) => stats.pageFaults),
    majorPageFaults: total((stats) => stats.majorPageFaults),
    swapBytes: total((stats) => stats.swapBytes),
    pids: total((stats) => stats.pids),
    memoryLimitBytes: undefined,
    swapLimitBytes: undefined,
    pressure: undefined,
  };
}
