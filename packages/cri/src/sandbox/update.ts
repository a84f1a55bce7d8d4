/**
 * UpdatePodSandboxResources: what the pod's configuration says of its resources from now on. The kubelet calls it after it has
 * changed the pod's cgroup, which is its own (api.proto): berth writes nothing there.
 */
import { create } from "@bufbuild/protobuf";
import { cri } from "@berth/spec";
import type { CriContext } from "../context.ts";
import { precondition } from "../errors.ts";

export async function updatePodSandboxResources(
  context: CriContext,
  request: cri.UpdatePodSandboxResourcesRequest,
  signal: AbortSignal,
): Promise<cri.UpdatePodSandboxResourcesResponse> {
  const sandbox = context.sandboxes.get(request.podSandboxId);
  const { record } = sandbox;
  await context.nri.relay?.updatePodSandbox(sandbox, request.overhead, request.resources);
  await context.locks.with(record.id, signal, () => {
    if (record.phase !== "ready")
      throw precondition(`pod sandbox "${record.id}" is ${record.phase}; only a ready one can be updated`);
    const linux = (record.config.linux ??= create(cri.LinuxPodSandboxConfigSchema));
    if (request.overhead) linux.overhead = request.overhead;
    if (request.resources) linux.resources = request.resources;
    context.sandboxes.saveConfig(sandbox);
    return Promise.resolve();
  });
  await context.nri.relay?.postUpdatePodSandbox(sandbox);
  return create(cri.UpdatePodSandboxResourcesResponseSchema, {});
}
