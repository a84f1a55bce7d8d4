/** StopPodSandbox: kills what runs in the pod, then gives its network and namespaces back. Idempotent; unknown pods are stopped. */
import { create } from "@bufbuild/protobuf";
import { cri } from "@berth/spec";
import type { CriContext } from "../context.ts";
import { endContainer } from "../container/end.ts";
import { STOPPED, emitEvent } from "../events.ts";
import type { Container, Sandbox } from "../store/records.ts";
import { releaseSandbox } from "./release.ts";

export async function stopPodSandbox(
  context: CriContext,
  request: cri.StopPodSandboxRequest,
  signal: AbortSignal,
): Promise<cri.StopPodSandboxResponse> {
  const sandbox = context.sandboxes.find(request.podSandboxId);
  if (sandbox) await context.locks.with(sandbox.record.id, signal, () => stopSandbox(context, sandbox, signal));
  return create(cri.StopPodSandboxResponseSchema, {});
}

/** With the sandbox's lock held. `signal` ends a network plugin that hangs: the next try goes on from there. */
export async function stopSandbox(context: CriContext, sandbox: Sandbox, signal?: AbortSignal): Promise<void> {
  if (sandbox.record.phase === "notready") return;
  await Promise.all(containersOf(context, sandbox.record.id).map((container) => endContainer(context, container)));
  await context.nri.relay?.stopPodSandbox(sandbox);
  await releaseSandbox(context, sandbox, signal);
  const wasReady = sandbox.record.phase === "ready";
  if (sandbox.record.phase !== "removing") sandbox.record.phase = "notready";
  context.sandboxes.save(sandbox);
  if (wasReady) emitEvent(context, STOPPED, sandbox.record.id, sandbox);
}

export const containersOf = (context: CriContext, sandboxId: string): Container[] =>
  context.containers.values().filter((container) => container.record.sandboxId === sandboxId);
