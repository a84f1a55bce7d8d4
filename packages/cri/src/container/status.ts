/** ContainerStatus and ListContainers. */
import { create, toJson } from "@bufbuild/protobuf";
import { cri } from "@berth/spec";
import { oci } from "@berth/spec/oci";
import { containerDir, type CriContext } from "../context.ts";
import { matchesLabels } from "../labels.ts";
import { ItemEncoder } from "../server/encoded.ts";
import type { Container, ContainerPhase, ContainerRecord } from "../store/records.ts";
import { criSignal } from "./signals.ts";

const { ContainerState } = cri;

const STATES: Readonly<Record<ContainerPhase, cri.ContainerState>> = {
  creating: ContainerState.CONTAINER_UNKNOWN,
  created: ContainerState.CONTAINER_CREATED,
  starting: ContainerState.CONTAINER_CREATED,
  running: ContainerState.CONTAINER_RUNNING,
  exited: ContainerState.CONTAINER_EXITED,
  removing: ContainerState.CONTAINER_EXITED,
};

export function getContainerStatus(
  context: CriContext,
  request: cri.ContainerStatusRequest,
): Promise<cri.ContainerStatusResponse> {
  const container = context.containers.get(request.containerId);
  const response = create(cri.ContainerStatusResponseSchema, {
    status: containerStatus(context, container),
    info: request.verbose ? { info: JSON.stringify(verboseInfo(context, container)) } : {},
  });
  return Promise.resolve(response);
}

export function containerStatus(context: CriContext, { record }: Container): cri.ContainerStatus {
  const { config, user } = record;
  const exited = record.phase === "exited" || record.phase === "removing";
  const started = exited || record.phase === "running";
  return create(cri.ContainerStatusSchema, {
    id: record.id,
    metadata: config.metadata,
    state: STATES[record.phase],
    createdAt: record.createdAt,
    startedAt: started ? record.startedAt : 0n,
    finishedAt: exited ? record.finishedAt : 0n,
    exitCode: exited ? record.exitCode : 0,
    image: imageSpec(context, record),
    imageRef: record.imageRef,
    imageId: record.imageId,
    reason: exited ? record.reason : "",
    message: record.message,
    labels: config.labels,
    annotations: config.annotations,
    mounts: config.mounts,
    logPath: record.logPath,
    resources: record.resources ? { linux: record.resources } : undefined,
    user: {
      linux: { uid: BigInt(user.uid), gid: BigInt(user.gid), supplementalGroups: user.additionalGids.map(BigInt) },
    },
    stopSignal: criSignal(record.stopSignal),
  });
}

/** A tag that the image has now; without one, what the container was asked for. */
function imageSpec(context: CriContext, record: ContainerRecord): cri.ImageSpec {
  const asked = record.config.image;
  const image = context.images.find(record.imageId);
  return create(cri.ImageSpecSchema, {
    image: image?.tags[0] ?? asked?.image ?? record.imageRef,
    annotations: asked?.annotations ?? {},
    userSpecifiedImage: asked?.userSpecifiedImage ?? "",
  });
}

function verboseInfo(context: CriContext, { record, spec }: Container): object {
  return {
    sandboxID: record.sandboxId,
    pid: record.pid,
    removing: record.phase === "removing",
    snapshotKey: record.id,
    snapshotter: context.images.snapshotter,
    cgroupPath: record.cgroupPath,
    stateDir: containerDir(context, record.id),
    config: toJson(cri.ContainerConfigSchema, record.config),
    runtimeSpec: spec === undefined ? null : JSON.parse(oci.compactSpec(spec)),
  };
}

/** A container that is still being made, or already being removed, is not shown. */
const visible = (record: ContainerRecord): boolean => record.phase !== "creating" && record.phase !== "removing";

export function listContainers(context: CriContext, filter: cri.ContainerFilter | undefined): ContainerRecord[] {
  const state = filter?.state?.state;
  const sandboxId = filter?.podSandboxId
    ? (context.sandboxes.find(filter.podSandboxId)?.record.id ?? filter.podSandboxId)
    : undefined;
  const candidates = filter?.id
    ? [context.containers.find(filter.id)].filter((found) => found !== undefined)
    : context.containers.values();
  return candidates
    .map(({ record }) => record)
    .filter((record) => visible(record) && (state === undefined || STATES[record.phase] === state))
    .filter((record) => sandboxId === undefined || record.sandboxId === sandboxId)
    .filter((record) => matchesLabels(record.config.labels, filter?.labelSelector));
}

export function containerItem(context: CriContext, record: ContainerRecord): cri.Container {
  return create(cri.ContainerSchema, {
    id: record.id,
    podSandboxId: record.sandboxId,
    metadata: record.config.metadata,
    image: imageSpec(context, record),
    imageRef: record.imageRef,
    imageId: record.imageId,
    state: STATES[record.phase],
    createdAt: record.createdAt,
    labels: record.config.labels,
    annotations: record.config.annotations,
  });
}

/** ListContainersResponse.containers, and StreamContainersResponse's, which has the same number. What changes in a container's item: its state, and the tags of its image. */
export const containerItems = (context: CriContext): ItemEncoder<ContainerRecord, typeof cri.ContainerSchema> =>
  new ItemEncoder({
    field: cri.ListContainersResponseSchema.field.containers.number,
    schema: cri.ContainerSchema,
    inputs: (record) => [STATES[record.phase], context.images.find(record.imageId)?.tags[0]],
    message: (record) => containerItem(context, record),
  });
