/** Pods that are namespaces and, with the first container that shares the PID namespace, an init: nothing that a runtime would hold. */
import { connectMonitor, MonitorLost } from "@berth/kernel";
import type { CriContext } from "../context.ts";
import { exists } from "../presence.ts";
import { ensurePodInit, initDir, stopPodInit } from "../sandbox/init.ts";
import type { Sandbox } from "../store/records.ts";
import { dialNamespace } from "../streaming/dial.ts";
import type { PodKind } from "./kind.ts";

export const ownPods: PodKind = {
  ownsPods: false,
  startPod: () => Promise.resolve(),
  ensureInit: ensurePodInit,
  releasePod: stopPodInit,
  adoptPod,
  dial: (context, { record }, port) => dialNamespace(context, record.netns, port),
};

async function adoptPod(context: CriContext, sandbox: Sandbox): Promise<boolean> {
  const dir = initDir(context, sandbox.record.id);
  const link = (await exists(dir)) ? await connectMonitor(dir).catch(noMonitor) : undefined;
  if (link) sandbox.init = { pid: (await link.state()).pid, link };
  return true;
}

/** No socket, or nobody behind it: the monitor has ended. */
function noMonitor(error: unknown): undefined {
  if (error instanceof MonitorLost) return undefined;
  throw error;
}
