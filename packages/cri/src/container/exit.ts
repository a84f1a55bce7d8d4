/** What happens when a container's process has exited: recorded once, and its cgroup removed with whatever it left inside. */
import { MonitorLost, readRecord, type MonitorLink, type MonitorState } from "@berth/kernel";
import { now } from "../clock.ts";
import { containerDir, type CriContext } from "../context.ts";
import { STOPPED, emitContainerEvent } from "../events.ts";
import { kindOf } from "../runtimes/find.ts";
import type { Container } from "../store/records.ts";
import { autoRemove } from "./auto-remove.ts";

/** The exit code of a process whose end nobody saw, as containerd reports it. */
const UNKNOWN_EXIT_CODE = 255;

/** From now on the exit of the container's process is recorded when it comes; `container.ended` settles when it has been. */
export function watchExit(context: CriContext, container: Container, link: MonitorLink): void {
  container.ended = link.exited.then(
    (state) => recordExit(context, container, state),
    (error: unknown) => recordLoss(context, container, error),
  );
  container.ended.then(
    () => autoRemove(context, container),
    (error: unknown) =>
      context.log.error({ container: container.record.id, err: error }, "could not record the container's exit"),
  );
}

async function recordExit(context: CriContext, container: Container, state: MonitorState): Promise<void> {
  await releaseProcess(context, container);
  applyExit(container, state);
  context.containers.save(container);
  // A process that could not be executed has not run: its start tells.
  if (state.startedAt > 0n) emitContainerEvent(context, STOPPED, container);
  await context.nri.relay?.stopContainer(container);
}

/** The monitor is gone without a word: its record may still tell; otherwise the container is killed, for nobody would see its end. */
async function recordLoss(context: CriContext, container: Container, error: unknown): Promise<void> {
  if (!(error instanceof MonitorLost)) throw error;
  const state = await readRecord(containerDir(context, container.record.id));
  await releaseProcess(context, container);
  if (state?.phase === "exited") applyExit(container, state);
  else applyUnknown(container, "the container's monitor ended before the container did");
  context.containers.save(container);
  emitContainerEvent(context, STOPPED, container);
  await context.nri.relay?.stopContainer(container);
}

async function releaseProcess(context: CriContext, container: Container): Promise<void> {
  container.link?.close();
  container.link = undefined;
  await kindOf(context, container.record).release(context, container.record);
}

export function applyExit({ record }: Container, state: MonitorState): void {
  record.pid = 0;
  record.startedAt = state.startedAt;
  record.finishedAt = state.finishedAt;
  record.exitCode = state.code;
  if (record.phase !== "removing") record.phase = "exited";
  if (record.reason === "") record.reason = state.oom ? "OOMKilled" : state.code === 0 ? "Completed" : "Error";
}

export function applyUnknown({ record }: Container, message: string): void {
  record.pid = 0;
  record.finishedAt = now();
  record.exitCode = UNKNOWN_EXIT_CODE;
  record.reason = "Unknown";
  record.message = message;
  if (record.phase !== "removing") record.phase = "exited";
}
