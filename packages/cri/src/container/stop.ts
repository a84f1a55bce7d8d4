/** StopContainer: the stop signal, a grace period, then SIGKILL for all that is in the container's cgroup. Idempotent. */
import { create } from "@bufbuild/protobuf";
import { cri } from "@berth/spec";
import type { CriContext } from "../context.ts";
import { kindOf } from "../runtimes/find.ts";
import type { Container } from "../store/records.ts";
import { endContainer } from "./end.ts";

export async function stopContainer(
  context: CriContext,
  request: cri.StopContainerRequest,
  signal: AbortSignal,
): Promise<cri.StopContainerResponse> {
  const container = context.containers.find(request.containerId);
  if (container) await stop(context, container, Number(request.timeout), signal);
  return create(cri.StopContainerResponseSchema, {});
}

async function stop(
  context: CriContext,
  container: Container,
  graceSeconds: number,
  signal: AbortSignal,
): Promise<void> {
  const { record, link, ended } = container;
  if (!link || record.phase === "exited") return void (await ended);
  // One that was created and never started runs nothing that could handle a signal.
  if (record.phase !== "running" || graceSeconds <= 0) return await endContainer(context, container);
  await kindOf(context, record).signal(context, container, record.stopSignal);
  if (await endedWithin(ended, graceSeconds * 1000, signal)) return;
  await endContainer(context, container);
}

async function endedWithin(ended: Promise<void> | undefined, ms: number, signal: AbortSignal): Promise<boolean> {
  const { promise: late, resolve, reject } = Promise.withResolvers<boolean>();
  const timer = setTimeout(resolve, Math.min(ms, 0x7fffffff), false);
  const onAbort = (): void => reject(signal.reason as Error);
  signal.addEventListener("abort", onAbort, { once: true });
  try {
    return await Promise.race([Promise.resolve(ended).then(() => true), late]);
  } finally {
    clearTimeout(timer);
    signal.removeEventListener("abort", onAbort);
  }
}
