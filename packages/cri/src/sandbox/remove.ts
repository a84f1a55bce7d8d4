/** RemovePodSandbox: stops it if that was not done, then removes its containers and its record. Idempotent. */
import { create } from "@bufbuild/protobuf";
import { cri } from "@berth/spec";
import type { CriContext } from "../context.ts";
import { deleteContainer } from "../container/remove.ts";
import { DELETED, emitEvent } from "../events.ts";
import type { Sandbox } from "../store/records.ts";
import { containersOf, stopSandbox } from "./stop.ts";

export async function removePodSandbox(
  context: CriContext,
  request: cri.RemovePodSandboxRequest,
  signal: AbortSignal,
): Promise<cri.RemovePodSandboxResponse> {
  const sandbox = context.sandboxes.find(request.podSandboxId);
  if (sandbox) await context.locks.with(sandbox.record.id, signal, () => deleteSandbox(context, sandbox));
  return create(cri.RemovePodSandboxResponseSchema, {});
}

/** With the sandbox's lock held. */
export async function deleteSandbox(context: CriContext, sandbox: Sandbox): Promise<void> {
  await stopSandbox(context, sandbox);
  sandbox.record.phase = "removing";
  context.sandboxes.save(sandbox);
  await Promise.all(containersOf(context, sandbox.record.id).map((container) => deleteContainer(context, container)));
  await context.nri.relay?.removePodSandbox(sandbox);
  context.sandboxes.delete(sandbox);
  emitEvent(context, DELETED, sandbox.record.id, sandbox);
}
