/** StartContainer: the parked process is released and execs. */
import { create } from "@bufbuild/protobuf";
import { OrderError } from "@berth/kernel";
import { cri } from "@berth/spec";
import { now } from "../clock.ts";
import type { CriContext } from "../context.ts";
import { precondition } from "../errors.ts";
import { STARTED, STOPPED, emitContainerEvent } from "../events.ts";
import { withProgress } from "../progress.ts";
import { kindOf } from "../runtimes/find.ts";
import { runHooks } from "./hooks.ts";
import type { Container } from "../store/records.ts";

/** What a shell answers for a command that could not be run; the kubelet shows it with the reason. */
const START_ERROR_CODE = 128;

export async function startContainer(
  context: CriContext,
  request: cri.StartContainerRequest,
  signal: AbortSignal,
): Promise<cri.StartContainerResponse> {
  const container = context.containers.get(request.containerId);
  const { log, onStep, telemetry } = context;
  const timed = { telemetry, pod: container.record.sandboxId, container: container.record.id };
  const options = { operation: "StartContainer", signal, log, onStep, timed };
  using _ = await context.nri.gate.enter();
  await context.locks.with(container.record.id, signal, () =>
    withProgress(options, async (progress) => {
      checkStartable(context, container);
      progress.step("record that the start has begun");
      container.record.phase = "starting";
      context.containers.save(container);
      progress.step("release the process");
      await release(context, container, signal);
    }),
  );
  return create(cri.StartContainerResponseSchema, {});
}

function checkStartable(context: CriContext, { record }: Container): void {
  if (record.phase !== "created")
    throw precondition(`container "${record.id}" is in state ${record.phase}, and only a created one can be started`);
  const sandbox = context.sandboxes.find(record.sandboxId);
  if (sandbox?.record.phase !== "ready")
    throw precondition(`pod sandbox "${record.sandboxId}" is not ready; container "${record.id}" cannot be started`);
}

/** A start cannot be taken back once asked for: the call's end does not end it. */
async function release(context: CriContext, container: Container, signal: AbortSignal): Promise<void> {
  const { record, link } = container;
  if (!link) throw precondition(`container "${record.id}" has no monitor`);
  signal.throwIfAborted();
  try {
    const kind = kindOf(context, record);
    await context.nri.relay?.startContainer(container);
    const state = await kind.told(context, record, link.start());
    record.startedAt = state.startedAt;
    // A runtime that restores tells which process it is only now.
    record.pid = await kind.pidOf(context, record, state);
    if (record.phase === "starting") record.phase = "running";
    context.containers.save(container);
    emitContainerEvent(context, STARTED, container);
  } catch (error) {
    await failed(context, container, error);
    throw error;
  }
  await runHooks(context, container, "poststart", "running");
  await context.nri.relay?.postStartContainer(container);
}

/** The container is Exited, with what went wrong as its message; the caller decides whether to remove it. */
async function failed(context: CriContext, container: Container, error: unknown): Promise<void> {
  const { record, link } = container;
  record.reason = "StartError";
  record.message = error instanceof Error ? error.message : String(error);
  if (!(error instanceof OrderError)) await link?.kill(0, 9);
  await container.ended;
  record.exitCode = START_ERROR_CODE;
  record.finishedAt ||= now();
  record.phase = "exited";
  context.containers.save(container);
  emitContainerEvent(context, STOPPED, container);
}
