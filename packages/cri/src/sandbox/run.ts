/** RunPodSandbox: record, namespaces, network. A reaping init comes later, with the first container that needs one (init.ts). */
import { randomBytes } from "node:crypto";
import { create } from "@bufbuild/protobuf";
import { cri } from "@berth/spec";
import { checkCgroupParent } from "../cgroups.ts";
import { now } from "../clock.ts";
import type { CriContext } from "../context.ts";
import { invalid } from "../errors.ts";
import { CREATED, STARTED, emitEvent } from "../events.ts";
import { apparmorOf } from "../container/apparmor.ts";
import { refuseSelinux } from "../container/selinux.ts";
import { checkUsernsHandler } from "../handler-features.ts";
import { handlerOf } from "../handlers.ts";
import { withProgress } from "../progress.ts";
import { kindFor } from "../runtimes/find.ts";
import type { Sandbox, SandboxRecord } from "../store/records.ts";
import { writePodFiles } from "./files.ts";
import { makeNamespaces, netnsPath, podNamespaces } from "./namespaces.ts";
import { attachmentOf, capabilitiesOf, preferred } from "./network.ts";
import { releaseSandbox } from "./release.ts";
import { checkUsernsSupport } from "./userns.ts";

export async function runPodSandbox(
  context: CriContext,
  request: cri.RunPodSandboxRequest,
  signal: AbortSignal,
): Promise<cri.RunPodSandboxResponse> {
  const record = newRecord(context, request);
  // A program that is missing is told before anything is made.
  const handler = handlerOf(context, request.runtimeHandler);
  const kind = kindFor(context, handler);
  await kind.check(context, handler);
  const ns = podNamespaces(record.config);
  if (ns.userns) {
    checkUsernsSupport(context);
    await checkUsernsHandler(context, handler);
  }
  const security = record.config.linux?.securityContext;
  refuseSelinux(context, security?.selinuxOptions, "config.linux.security_context.selinux_options");
  await apparmorOf(context, { privileged: false, apparmorProfile: "", ...security });
  capabilitiesOf(record.config);
  checkCgroupParent(record);
  const sandbox: Sandbox = { record };
  context.sandboxes.add(sandbox);
  const { log, onStep, telemetry } = context;
  const timed = { telemetry, pod: record.id, container: "" };
  const options = { operation: "RunPodSandbox", signal, log, onStep, timed };
  await context.locks.with(record.id, undefined, () =>
    withProgress(options, async (progress) => {
      progress.onFailure("release the pod", async () => {
        await releaseSandbox(context, sandbox);
        context.sandboxes.delete(sandbox);
      });
      if (!ns.hostNetwork) {
        record.netns = netnsPath(context, record.id);
        context.sandboxes.save(sandbox);
      }
      progress.step("make the namespaces");
      await makeNamespaces(context, record, signal);
      progress.step("write the pod's files and attach the network");
      await allDone([
        writePodFiles(context, record),
        ns.hostNetwork ? Promise.resolve() : attach(context, sandbox, signal),
      ]);
      await kind.startPod(context, progress, sandbox);
      using _ = await context.nri.gate.enter();
      await context.nri.relay?.runPodSandbox(progress, sandbox);
      progress.step("record the pod as ready");
      record.phase = "ready";
      context.sandboxes.save(sandbox);
      for (const type of [CREATED, STARTED]) emitEvent(context, type, record.id, sandbox);
    }),
  );
  return create(cri.RunPodSandboxResponseSchema, { podSandboxId: record.id });
}

async function attach(context: CriContext, sandbox: Sandbox, signal: AbortSignal): Promise<void> {
  const { record } = sandbox;
  if (record.netns === undefined) return;
  record.networked = true;
  context.sandboxes.save(sandbox);
  try {
    const cni = await context.cniOf(handlerOf(context, record.handler));
    const result = await cni.add(attachmentOf(record, record.netns), { signal });
    record.ips = preferred(
      result.ips.map(({ address }) => address),
      context.config.ipPreference,
    );
  } catch (error) {
    // What a failed ADD could undo must not be asked of a plugin again: it may be the one that is missing.
    record.networked = await context.cni.isAttached(record.id);
    throw error;
  }
}

/** All settle before the first failure is thrown, so that undoing does not race with what still runs. */
async function allDone(tasks: readonly Promise<void>[]): Promise<void> {
  for (const outcome of await Promise.allSettled(tasks)) {
    if (outcome.status === "rejected") throw outcome.reason;
  }
}

function newRecord(context: CriContext, request: cri.RunPodSandboxRequest): SandboxRecord {
  const { config } = request;
  if (!config) throw invalid("config: missing from the request");
  if (!config.metadata) throw invalid("config.metadata: missing from the request");
  if (config.windows) throw invalid("config.windows: this node runs Linux; use config.linux");
  if (config.metadata.name === "") throw invalid("config.metadata.name: must not be empty");
  const handler = handlerOf(context, request.runtimeHandler);
  const kind = kindFor(context, handler);
  return {
    id: randomBytes(32).toString("hex"),
    config,
    handler: request.runtimeHandler,
    ...(kind.ownsPods && { runtime: kind.name }),
    ...(handler.options.systemdCgroup && { systemdCgroup: true }),
    createdAt: now(),
    phase: "creating",
    networked: false,
    ips: [],
  };
}
