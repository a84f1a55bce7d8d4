/**
 * What a new daemon makes of what an earlier one left: pods and containers whose processes live on are adopted, what was half-made
 * is taken back, what was half-removed is removed. Returns a line for each thing done.
 */
import { readdir, rm } from "node:fs/promises";
import { connectMonitor, MonitorLost, readRecord } from "@berth/kernel";
import type { cri } from "@berth/spec";
import { join } from "node:path";
import { checkpointsDir } from "./checkpoint/place.ts";
import { containerDir, type CriContext } from "./context.ts";
import { applyExit, applyUnknown, watchExit } from "./container/exit.ts";
import { ownerOfKey, releaseImageVolumes } from "./container/image-volumes.ts";
import { deleteContainer } from "./container/remove.ts";
import { exists } from "./presence.ts";
import { kindOf, kindOfPod } from "./runtimes/find.ts";
import { releaseSandbox } from "./sandbox/release.ts";
import { deleteSandbox } from "./sandbox/remove.ts";
import { stopSandbox } from "./sandbox/stop.ts";
import { CREATED, STARTED, STOPPED, emitContainerEvent } from "./events.ts";
import type { Container, ContainerPhase, Sandbox } from "./store/records.ts";

export async function recover(context: CriContext): Promise<string[]> {
  const sandboxes = context.sandboxes.load().map((record): Sandbox => ({ record }));
  const containers = context.containers.load().map((record): Container => ({ record }));
  for (const sandbox of sandboxes) context.sandboxes.adopt(sandbox);
  for (const container of containers) context.containers.adopt(container);
  const done: string[] = [];
  for (const kind of context.kinds) await kind.recover?.(context);
  await Promise.all(containers.map(async (container) => done.push(await recoverContainer(context, container))));
  await Promise.all(sandboxes.map(async (sandbox) => done.push(await recoverSandbox(context, sandbox))));
  done.push(...(await removeOrphans(context)));
  await collectNetworks(context);
  return done.filter((line) => line !== "");
}

async function recoverContainer(context: CriContext, container: Container): Promise<string> {
  const { record } = container;
  container.told = toldBefore(record.phase);
  switch (record.phase) {
    case "exited":
      return "";
    case "removing":
      await deleteContainer(context, container);
      return `finished removing container ${record.id}`;
    case "creating":
      await takeBack(context, container);
      return `removed half-made container ${record.id}`;
    default:
      return await adopt(context, container);
  }
}

async function adopt(context: CriContext, container: Container): Promise<string> {
  const { record } = container;
  const dir = containerDir(context, record.id);
  const link = await connectMonitor(dir).catch(noMonitor);
  if (link) {
    const state = await link.state();
    record.pid = await kindOf(context, record).pidOf(context, record, state);
    record.startedAt = state.startedAt;
    record.phase = state.phase === "running" || state.phase === "exited" ? "running" : "created";
    container.link = link;
    watchExit(context, container, link);
    context.containers.save(container);
    return `adopted container ${record.id} (${state.phase})`;
  }
  const state = await readRecord(dir);
  await kindOf(context, record).release(context, record);
  if (state?.phase === "exited") applyExit(container, state);
  else applyUnknown(container, "the container ended while berthd did not run, and nothing recorded how");
  context.containers.save(container);
  emitContainerEvent(context, STOPPED, container);
  return `container ${record.id} had exited with ${record.exitCode} (${record.reason})`;
}

/** The events that an earlier daemon has given out; those of what happened since are new. */
function toldBefore(phase: ContainerPhase): Set<cri.ContainerEventType> {
  if (phase === "created" || phase === "starting") return new Set([CREATED]);
  return new Set(phase === "running" ? [CREATED, STARTED] : [CREATED, STARTED, STOPPED]);
}

/** No socket, or nobody behind it: the monitor has ended. */
function noMonitor(error: unknown): undefined {
  if (error instanceof MonitorLost) return undefined;
  throw error;
}

/** A container whose creation did not finish: its process, if it got that far, is parked and has run nothing. */
async function takeBack(context: CriContext, container: Container): Promise<void> {
  const { record } = container;
  const dir = containerDir(context, record.id);
  const link = await connectMonitor(dir).catch(noMonitor);
  if (link) {
    const exited = link.exited;
    await link.kill(0, 9);
    await exited;
    link.close();
  }
  await kindOf(context, record).release(context, record);
  await releaseImageVolumes(context, record.id, record.config);
  await context.images.removeRootfs(record.id);
  await rm(dir, { recursive: true, force: true });
  context.containers.delete(container);
}

async function recoverSandbox(context: CriContext, sandbox: Sandbox): Promise<string> {
  const { record } = sandbox;
  switch (record.phase) {
    case "notready":
      return "";
    case "creating":
      await releaseSandbox(context, sandbox);
      context.sandboxes.delete(sandbox);
      return `removed half-made pod ${record.id}`;
    case "removing":
      await deleteSandbox(context, sandbox);
      return `finished removing pod ${record.id}`;
    case "ready":
      return await adoptSandbox(context, sandbox);
  }
}

/** A pod whose network namespace is gone (the machine has booted since) is stopped. */
async function adoptSandbox(context: CriContext, sandbox: Sandbox): Promise<string> {
  const { record } = sandbox;
  if (record.netns !== undefined && !(await exists(record.netns))) {
    await stopSandbox(context, sandbox);
    return `stopped pod ${record.id}: its network namespace is gone`;
  }
  if (!(await kindOfPod(context, record).adoptPod(context, sandbox))) {
    await stopSandbox(context, sandbox);
    return `stopped pod ${record.id}: what held it is gone`;
  }
  return `adopted pod ${record.id}`;
}

/** A plugin that hangs does not keep the node from its pods. */
const COLLECT_TIMEOUT_MS = 5_000;

/** What pods that are gone have left with the network: now, when no pod is being attached. */
async function collectNetworks({ cni, sandboxes, log }: CriContext): Promise<void> {
  const attached = sandboxes.values().filter(({ record }) => record.networked);
  try {
    await cni.gc(
      attached.map(({ record }) => record.id),
      { timeoutMs: COLLECT_TIMEOUT_MS },
    );
  } catch (error) {
    log.warn({ err: error }, "what pods that are gone have left with the network could not all be freed");
  }
}

/** Writable layers and directories that no record speaks of. */
async function removeOrphans(context: CriContext): Promise<string[]> {
  const done: string[] = [];
  for (const key of context.images.rootfsKeys()) {
    if (context.containers.find(ownerOfKey(key))) continue;
    await context.images.removeRootfs(key);
    done.push(`removed the writable layer of unknown container ${key}`);
  }
  for (const name of await readdir(`${context.paths.state}/containers`)) {
    if (context.containers.find(name)) continue;
    await rm(containerDir(context, name), { recursive: true, force: true });
    done.push(`removed the directory of unknown container ${name}`);
  }
  for (const name of await readdir(checkpointsDir(context)).catch(noneThere)) {
    if (context.containers.find(name)) continue;
    await rm(join(checkpointsDir(context), name), { recursive: true, force: true });
    done.push(`removed what was left of checkpoint ${name}`);
  }
  return done;
}

function noneThere(error: NodeJS.ErrnoException): string[] {
  if (error.code === "ENOENT") return [];
  throw error;
}
