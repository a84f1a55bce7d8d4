/** CreateContainer: configuration → OCI config → snapshot → plan → a monitor whose process is set up, in its cgroups, and parked. */
import { randomBytes } from "node:crypto";
import { mkdir, rm, writeFile } from "node:fs/promises";
import { create } from "@bufbuild/protobuf";
import type { ImageRecord } from "@berth/image";
import { connectMonitor, monitorEnded, parseSignal } from "@berth/kernel";
import { cri } from "@berth/spec";
import { oci } from "@berth/spec/oci";
import { cgroupOf, cgroupsPathOf } from "../cgroups.ts";
import { checkRestore, isCheckpoint } from "../checkpoint/detect.ts";
import { inCriusWords } from "../checkpoint/place.ts";
import { now } from "../clock.ts";
import { containerDir, type CriContext } from "../context.ts";
import { invalid, notFound, precondition } from "../errors.ts";
import { CREATED, emitContainerEvent } from "../events.ts";
import { checkSupported } from "../handler-features.ts";
import { handlerOf } from "../handlers.ts";
import { type Progress, withProgress } from "../progress.ts";
import { kindOfNext } from "../runtimes/find.ts";
import type { Creation, RuntimeKind } from "../runtimes/kind.ts";
import { podNamespaces, usernsPath } from "../sandbox/namespaces.ts";
import { checkContainerUserns } from "../sandbox/userns.ts";
import type { Container, ContainerRecord, Sandbox } from "../store/records.ts";
import { blamed, injectDevices } from "./cdi.ts";
import { endContainer } from "./end.ts";
import { watchExit } from "./exit.ts";
import { mountImageVolumes, recordImageRefs, unmountImageVolumes } from "./image-volumes.ts";
import { sharesPodPid } from "./namespaces.ts";
import { prepareRootfs, writableSize } from "./rootfs.ts";
import { refuseRelabel, refuseSelinux } from "./selinux.ts";
import { signalName } from "./signals.ts";
import { ociSpec } from "./spec.ts";
import { type ResolvedUser, resolveUser } from "./user.ts";

export async function createContainer(
  context: CriContext,
  request: cri.CreateContainerRequest,
  signal: AbortSignal,
): Promise<cri.CreateContainerResponse> {
  const config = checkedConfig(context, request);
  const sandbox = context.sandboxes.get(request.podSandboxId);
  const id = randomBytes(32).toString("hex");
  // Not waited for: a plugin may know of a pod that is being made, and nobody else.
  checkReady(sandbox);
  await context.locks.with(sandbox.record.id, signal, async () => {
    checkContainerUserns(sandbox.record.config, config);
    checkPrivileged(sandbox.record.config, config);
    checkReady(sandbox);
    const { log, onStep, telemetry } = context;
    const timed = { telemetry, pod: sandbox.record.id, container: id };
    const options = { operation: "CreateContainer", signal, log, onStep, timed };
    await withProgress(options, (progress) => make(context, progress, id, sandbox, config));
  });
  return create(cri.CreateContainerResponseSchema, { containerId: id });
}

function checkReady({ record }: Sandbox): void {
  if (record.phase !== "ready") throw precondition(`pod sandbox "${record.id}" is not ready (it is ${record.phase})`);
}

/** A pod says at its start whether it may hold a privileged container (api.proto). */
function checkPrivileged(pod: cri.PodSandboxConfig, container: cri.ContainerConfig): void {
  if (!container.linux?.securityContext?.privileged || pod.linux?.securityContext?.privileged) return;
  throw invalid(
    "config.linux.security_context.privileged: the pod is not privileged, and so none of its containers can be; set it in the pod's security context too",
  );
}

function checkedConfig(context: CriContext, request: cri.CreateContainerRequest): cri.ContainerConfig {
  const { config } = request;
  if (!config) throw invalid("config: missing from the request");
  if (!config.metadata) throw invalid("config.metadata: missing from the request");
  if (config.windows) throw invalid("config.windows: this node runs Linux; use config.linux");
  if (config.metadata.name === "") throw invalid("config.metadata.name: must not be empty");
  if (!config.image?.image) throw invalid("config.image.image: missing from the request");
  refuseSelinux(
    context,
    config.linux?.securityContext?.selinuxOptions,
    "config.linux.security_context.selinux_options",
  );
  refuseRelabel(context, config.mounts);
  return config;
}

async function make(
  context: CriContext,
  progress: Progress,
  id: string,
  sandbox: Sandbox,
  asked: cri.ContainerConfig,
): Promise<void> {
  const { signal } = progress;
  const isRestored = await isCheckpoint(context, asked);
  if (isRestored) checkRestore(context, asked);
  const checkpoints = isRestored ? await import("../checkpoint/restore.ts") : undefined;
  const checkpoint = await checkpoints?.openCheckpoint(context, progress, id, asked);
  const config = checkpoint?.config ?? asked;
  const image = checkpoint?.image ?? context.images.find(config.image?.image ?? "");
  if (!image) throw notFound("image", config.image?.image ?? "");
  const user = resolveUser(
    config.linux?.securityContext,
    image.config.User ?? "",
    await context.images.userDatabase(image),
  );
  recordImageRefs(context, config);
  const handler = handlerOf(context, sandbox.record.handler);
  const kind = kindOfNext(context, sandbox.record);
  const served = await kind.recordOf(context, handler, sandbox);
  await checkSupported(context, handler, config);
  const record = { ...newRecord(context, id, sandbox, config, image, user), ...served };
  const container: Container = { record };
  context.containers.add(container);
  progress.onFailure("forget the container", () => Promise.resolve(context.containers.delete(container)));

  if (sharesPodPid(config)) {
    progress.step("start the pod's init");
    await kind.ensureInit(context, sandbox, signal);
  }
  const { userns } = podNamespaces(sandbox.record.config);
  const usernsPin = userns && usernsPath(context, sandbox.record.id);
  const imageSources = await mountImageVolumes(context, progress, id, config, usernsPin);
  const plain = await ociSpec(context, {
    id,
    sandbox,
    config,
    image,
    user,
    cgroupsPath: cgroupsPathOf(record, id),
    imageSources,
  });
  progress.step("inject CDI devices");
  const injected = await context.nvidia.inject(handler, await injectDevices(context, config, plain));
  using _ = await context.nri.gate.enter();
  const adjusted = (await context.nri.relay?.adjustContainer(progress, sandbox, container, injected)) ?? injected;
  const spec = kind.adapt(context, adjusted, userns);
  progress.step("prepare the root file system");
  progress.onFailure("remove the root file system", () => context.images.removeRootfs(id));
  const size = writableSize(config.annotations, sandbox.record.config.annotations);
  const rootfs = await prepareRootfs(context, id, image, userns, size);
  container.spec = spec;
  container.rootfs = rootfs;

  const dir = containerDir(context, id);
  progress.onFailure("remove the container's directory", () => rm(dir, { recursive: true, force: true }));
  await mkdir(dir, { recursive: true, mode: 0o700 });
  if (record.logPath !== "")
    await mkdir(record.logPath.replace(/\/[^/]*$/, "") || "/", { recursive: true, mode: 0o755 });
  if (checkpoint) await checkpoints?.applyCheckpoint(context, checkpoint, record, rootfs, signal);
  await writeFile(`${dir}/config.json`, oci.compactSpec(spec));
  // Where the root is attached, in the container's own mounts, while hooks run that look for it.
  if (spec.hooks && kind.leavesHooks) await mkdir(`${dir}/${spec.root?.path ?? "rootfs"}`);

  const creation = { container, sandbox, handler, spec, rootfs, userns: usernsPin, checkpoint };
  try {
    await makeProcess(context, progress, kind, creation);
  } catch (error) {
    throw await blamed(error, config, spec);
  }
  progress.step("record the container as created");
  record.phase = "created";
  context.containers.save(container);
  emitContainerEvent(context, CREATED, container);
  await context.nri.relay?.postCreateContainer(container);
}

async function makeProcess(
  context: CriContext,
  progress: Progress,
  kind: RuntimeKind,
  creation: Creation,
): Promise<void> {
  const { container, checkpoint } = creation;
  const { record } = container;
  const { id, config } = record;
  const dir = containerDir(context, id);
  progress.step("make the process and park it");
  progress.onFailure("give back what its runtime holds", async () => {
    await monitorEnded(dir);
    await kind.release(context, record);
  });
  const plan = await kind.plan(context, creation);
  const parked = context.hand.monitor(
    {
      dir,
      plan,
      subreaper: kind.subreaper || checkpoint !== undefined,
      ...(record.logPath !== "" && { logPath: record.logPath }),
      maxLine: context.config.maxLogLine,
      terminal: config.tty ? { rows: 24, columns: 80 } : undefined,
      stdin: config.stdin,
      stdinOnce: config.stdinOnce,
      oom: kind.oom(context, record),
    },
    { signal: progress.signal },
  );
  const restored = checkpoint ? inCriusWords(parked, checkpoint.directory) : parked;
  record.pid = (await kind.told(context, record, restored)).pid;
  await unmountImageVolumes(context, id, config);
  progress.step("connect to its monitor");
  progress.onFailure("end the process", async () => {
    if (!container.link) watchExit(context, container, (container.link = await connectMonitor(dir, plan)));
    await endContainer(context, container);
  });
  container.link = await connectMonitor(dir, plan);
  watchExit(context, container, container.link);
  await kind.made(context, progress, creation);
}

function newRecord(
  context: CriContext,
  id: string,
  sandbox: Sandbox,
  config: cri.ContainerConfig,
  image: ImageRecord,
  user: ResolvedUser,
): ContainerRecord {
  const { logDirectory } = sandbox.record.config;
  return {
    id,
    sandboxId: sandbox.record.id,
    config,
    createdAt: now(),
    imageId: image.id,
    imageRef: image.digests[0] ?? image.id,
    logPath: logDirectory !== "" && config.logPath !== "" ? `${logDirectory}/${config.logPath}` : "",
    ...cgroupOf(context, sandbox.record, id),
    stopSignal: stopSignalOf(config, image),
    user: { uid: user.uid, gid: user.gid, additionalGids: user.additionalGids },
    phase: "creating",
    pid: 0,
    startedAt: 0n,
    finishedAt: 0n,
    exitCode: 0,
    reason: "",
    message: "",
    resources: config.linux?.resources,
  };
}

function stopSignalOf(config: cri.ContainerConfig, image: ImageRecord): number {
  const asked = config.stopSignal;
  const name = asked === cri.Signal.RUNTIME_DEFAULT ? image.config.StopSignal || "SIGTERM" : signalName(asked);
  const signal = parseSignal(name);
  if (signal === undefined) throw invalid(`stop signal "${name}" is not a signal's name or number`);
  return signal;
}
