/** RemoveContainer: ends it if it runs, then removes everything of it but its log. Idempotent, and finishes what an earlier try left. */
import { create } from "@bufbuild/protobuf";
import { cri } from "@berth/spec";
import { restoredDir } from "../checkpoint/place.ts";
import { containerDir, type CriContext } from "../context.ts";
import { DELETED, emitContainerEvent } from "../events.ts";
import type { Container } from "../store/records.ts";
import { endContainer } from "./end.ts";
import { runHooks } from "./hooks.ts";
import { releaseImageVolumes } from "./image-volumes.ts";

export async function removeContainer(
  context: CriContext,
  request: cri.RemoveContainerRequest,
  signal: AbortSignal,
): Promise<cri.RemoveContainerResponse> {
  const container = context.containers.find(request.containerId);
  if (container) await deleteContainer(context, container, signal);
  return create(cri.RemoveContainerResponseSchema, {});
}

export async function deleteContainer(context: CriContext, container: Container, signal?: AbortSignal): Promise<void> {
  const { record } = container;
  await context.locks.with(record.id, signal, async () => {
    if (!context.containers.find(record.id)) return;
    await endContainer(context, container);
    await context.nri.relay?.removeContainer(container);
    record.phase = "removing";
    context.containers.save(container);
    await releaseImageVolumes(context, record.id, record.config);
    await context.images.removeRootfs(record.id);
    await runHooks(context, container, "poststop", "stopped");
    await context.hand.run({
      orders: [containerDir(context, record.id), restoredDir(context, record.id)].map((path) => ({
        order: "remove_tree" as const,
        args: { path },
      })),
    });
    context.containers.delete(container);
    emitContainerEvent(context, DELETED, container);
  });
}
