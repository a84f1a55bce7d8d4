/** UpdateContainerResources: only what the request sets is changed; the rest stays. */
import { writeFile } from "node:fs/promises";
import { create } from "@bufbuild/protobuf";
import { cgroupDirectories, processesBelow } from "@berth/kernel";
import { cri } from "@berth/spec";
import type { CriContext } from "../context.ts";
import { invalid, precondition } from "../errors.ts";
import { kindOf } from "../runtimes/find.ts";
import type { Container } from "../store/records.ts";

export async function updateContainerResources(
  context: CriContext,
  request: cri.UpdateContainerResourcesRequest,
  signal: AbortSignal,
): Promise<cri.UpdateContainerResourcesResponse> {
  const container = context.containers.get(request.containerId);
  const { linux } = request;
  if (request.windows) throw invalid("windows: this node runs Linux; use linux");
  if (!linux) throw invalid("linux: missing from the request");
  const asked = (await context.nri.relay?.updateContainer(container, linux)) ?? linux;
  await changeResources(context, container, asked, signal);
  await context.nri.relay?.postUpdateContainer(container);
  return create(cri.UpdateContainerResourcesResponseSchema, {});
}

export async function changeResources(
  context: CriContext,
  container: Container,
  linux: cri.LinuxContainerResources,
  signal: AbortSignal,
): Promise<void> {
  const { record } = container;
  await context.locks.with(record.id, signal, async () => {
    if (record.phase !== "created" && record.phase !== "running")
      throw precondition(`container "${record.id}" is ${record.phase}; only a created or running one can be updated`);
    const merged = mergeResources(record.resources, linux);
    await kindOf(context, record).update(context, container, linux, merged, signal);
    if (linux.oomScoreAdj !== 0n) await adjustOomScore(context, container, Number(linux.oomScoreAdj));
    record.resources = merged;
    context.containers.save(container);
  });
}

/** Of every process that runs in the container; what they start inherits it (proc(5), /proc/PID/oom_score_adj). */
async function adjustOomScore(context: CriContext, { record }: Container, wanted: number): Promise<void> {
  const { unified, v1 } = cgroupDirectories(record.cgroupPath, context.host.cgroups);
  const pids = await processesBelow(unified ?? v1[0]?.directory ?? "");
  for (const pid of pids) {
    try {
      await writeFile(`/proc/${pid}/oom_score_adj`, String(wanted));
    } catch (error) {
      const { code } = error as NodeJS.ErrnoException;
      if (code === "EACCES" || code === "EINVAL")
        throw precondition(
          `linux.oom_score_adj: ${wanted} cannot be given to process ${pid} (${code}): below its present score it needs CAP_SYS_RESOURCE, and it is -1000 to 1000`,
        );
      if (code !== "ENOENT" && code !== "ESRCH") throw error;
    }
  }
}

/** `before` with what `update` sets. */
export function mergeResources(
  before: cri.LinuxContainerResources | undefined,
  update: cri.LinuxContainerResources,
): cri.LinuxContainerResources {
  const merged = create(cri.LinuxContainerResourcesSchema, before ?? {});
  for (const key of [
    "cpuPeriod",
    "cpuQuota",
    "cpuShares",
    "memoryLimitInBytes",
    "oomScoreAdj",
    "memorySwapLimitInBytes",
  ] as const) {
    if (update[key] !== 0n) merged[key] = update[key];
  }
  for (const key of ["cpusetCpus", "cpusetMems"] as const) if (update[key] !== "") merged[key] = update[key];
  if (update.hugepageLimits.length > 0) merged.hugepageLimits = update.hugepageLimits;
  merged.unified = { ...merged.unified, ...update.unified };
  return merged;
}
