/** Pods that a shim holds: its sandbox container, first in and last out. */
import { killCgroup } from "@berth/kernel";
import { taskTypes } from "@berth/spec/shim";
import { cgroupOf, removeCgroup } from "../../cgroups.ts";
import type { CriContext } from "../../context.ts";
import { exists } from "../../presence.ts";
import { precondition } from "../../errors.ts";
import { handlerOf } from "../../handlers.ts";
import type { Progress } from "../../progress.ts";
import { stopSandbox } from "../../sandbox/stop.ts";
import type { Sandbox } from "../../store/records.ts";
import { dialNamespace } from "../../streaming/dial.ts";
import type { PodKind } from "../kind.ts";
import { bundleOf, shimOf, writeBundle } from "./bundle.ts";
import { endTask } from "./end.ts";
import { pauseRoot, pauseSpec } from "./pause.ts";
import { inShimsWords, shimsOf, unlessGone } from "./shims.ts";
import { shimOptions, startShim } from "./start.ts";

export const shimPods: PodKind = {
  ownsPods: true,
  startPod,
  // Its sandbox container is one from the pod's beginning.
  ensureInit: () => Promise.resolve(),
  releasePod,
  adoptPod,
  dial: (context, { record }, port) => dialNamespace(context, record.netns, port),
};

async function startPod(context: CriContext, progress: Progress, sandbox: Sandbox): Promise<void> {
  const { record } = sandbox;
  const { id } = record;
  const { signal } = progress;
  const handler = handlerOf(context, record.handler);
  progress.step("start the pod's shim");
  const bundle = bundleOf(context, id, id);
  await writeBundle(bundle, pauseSpec(context, handler, sandbox));
  const shim = await startShim(context, handler, id, bundle);
  progress.step("start the sandbox container");
  const service = await shimsOf(context).connect(shim);
  if (!service) throw precondition(`runtime_handler: "${record.handler}": its shim has ended at once`);
  const what = `runtime handler "${record.handler}"`;
  const rootfs = [{ type: "bind", source: await pauseRoot(context), options: ["rbind", "ro"] }];
  const options = shimOptions(handler);
  const created = await inShimsWords(what, service.call("create", { id, bundle, rootfs, options }, { signal }));
  await inShimsWords(what, service.call("start", { id }, { signal }));
  sandbox.init = { pid: created.pid };
  watch(context, sandbox, service.call("wait", { id }));
}

/** What a pod stands on has ended: so has the pod. Its containers are seen to end by their own monitors. */
function watch(context: CriContext, sandbox: Sandbox, ended: Promise<unknown>): void {
  const { init } = sandbox;
  const settle = async (): Promise<void> => {
    await ended.catch(() => undefined);
    // Stopped meanwhile, or this daemon is ending; the next one looks again.
    if (sandbox.init !== init || shimsOf(context).isClosed) return;
    await context.locks.with(sandbox.record.id, undefined, async () => {
      if (sandbox.init !== init || sandbox.record.phase !== "ready") return;
      context.log.warn({ sandbox: sandbox.record.id }, "the pod's sandbox container has ended, and the pod with it");
      await stopSandbox(context, sandbox);
    });
  };
  settle().catch((error: unknown) =>
    context.log.error({ sandbox: sandbox.record.id, err: error }, "could not stop a pod whose shim has ended"),
  );
}

async function releasePod(context: CriContext, sandbox: Sandbox): Promise<void> {
  const { record } = sandbox;
  sandbox.init = undefined;
  await endTask(context, record.id, bundleOf(context, record.id, record.id));
  const cgroup = cgroupOf(context, record, record.id);
  await killCgroup(cgroup.cgroupPath, context.host);
  await removeCgroup(context, cgroup);
}

async function adoptPod(context: CriContext, sandbox: Sandbox): Promise<boolean> {
  const { id } = sandbox.record;
  const bundle = bundleOf(context, id, id);
  const shim = (await exists(bundle)) ? await shimOf(bundle) : undefined;
  if (!shim) return false;
  await shimsOf(context).listen();
  const service = await shimsOf(context).connect(shim);
  const state = service && (await unlessGone(service.call("state", { id })));
  if (!service || !state || state.status === taskTypes.Status.STOPPED) return false;
  sandbox.init = { pid: state.pid };
  watch(context, sandbox, service.call("wait", { id }));
  return true;
}
