/** UpdateContainerResources: only what the request sets is changed; the rest stays. */
import { create } from "@bufbuild/protobuf";
import { updateResources } from "@berth/runtime";
import { cri } from "@berth/spec";
import type { CriContext } from "../context.ts";
import { invalid, precondition } from "../errors.ts";
import { resourcesOf } from "./resources.ts";

export async function updateContainerResources(
  context: CriContext,
  request: cri.UpdateContainerResourcesRequest,
  signal: AbortSignal,
): Promise<cri.UpdateContainerResourcesResponse> {
  const container = context.containers.get(request.containerId);
  const { linux } = request;
  if (!linux) throw invalid("linux: missing from the request");
  const { record } = container;
  await context.locks.with(record.id, signal, async () => {
    if (record.phase !== "created" && record.phase !== "running")
      throw precondition(`container "${record.id}" is ${record.phase}; only a created or running one can be updated`);
    await context.hand.run(updateResources(record.cgroupPath, resourcesOf(linux), context.host), { signal });
    record.resources = mergeResources(record.resources, linux);
    context.containers.save(container);
  });
  return create(cri.UpdateContainerResourcesResponseSchema, {});
}

function mergeResources(
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
