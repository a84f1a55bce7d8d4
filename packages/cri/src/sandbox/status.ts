/** PodSandboxStatus and ListPodSandbox. */
import { create, toJson } from "@bufbuild/protobuf";
import { cri } from "@berth/spec";
import { now } from "../clock.ts";
import { containerStatus } from "../container/status.ts";
import type { CriContext } from "../context.ts";
import { matchesLabels } from "../labels.ts";
import { ItemEncoder } from "../server/encoded.ts";
import type { Sandbox, SandboxRecord } from "../store/records.ts";
import { containersOf } from "./stop.ts";

const { PodSandboxState } = cri;

const stateOf = (record: SandboxRecord): cri.PodSandboxState =>
  record.phase === "ready" ? PodSandboxState.SANDBOX_READY : PodSandboxState.SANDBOX_NOTREADY;

/** A pod that is still being made, or already being removed, is not shown. */
const visible = (sandbox: Sandbox): boolean => sandbox.record.phase === "ready" || sandbox.record.phase === "notready";

export function podSandboxStatus(
  context: CriContext,
  request: cri.PodSandboxStatusRequest,
): Promise<cri.PodSandboxStatusResponse> {
  const sandbox = context.sandboxes.get(request.podSandboxId);
  const statuses = containersOf(context, sandbox.record.id).map((container) => containerStatus(context, container));
  const response = create(cri.PodSandboxStatusResponseSchema, {
    status: sandboxStatus(sandbox),
    containersStatuses: statuses,
    timestamp: now(),
    info: request.verbose ? { info: JSON.stringify(verboseInfo(context, sandbox)) } : {},
  });
  return Promise.resolve(response);
}

export function sandboxStatus({ record }: Sandbox): cri.PodSandboxStatus {
  const { config } = record;
  const [ip = "", ...additional] = record.phase === "ready" ? record.ips : [];
  return create(cri.PodSandboxStatusSchema, {
    id: record.id,
    metadata: config.metadata,
    state: stateOf(record),
    createdAt: record.createdAt,
    network: { ip, additionalIps: additional.map((other) => ({ ip: other })) },
    linux: { namespaces: { options: config.linux?.securityContext?.namespaceOptions ?? {} } },
    labels: config.labels,
    annotations: config.annotations,
    runtimeHandler: record.handler,
  });
}

function verboseInfo(context: CriContext, { record, init }: Sandbox): object {
  return {
    pid: init?.pid ?? 0,
    processStatus: record.phase === "ready" ? "running" : "stopped",
    netNamespaceClosed: record.phase !== "ready",
    netns: record.netns ?? "",
    runtimeHandler: record.handler,
    stateDir: `${context.paths.state}/pods/${record.id}`,
    config: toJson(cri.PodSandboxConfigSchema, record.config),
  };
}

export function listSandboxes(context: CriContext, filter: cri.PodSandboxFilter | undefined): SandboxRecord[] {
  const state = filter?.state?.state;
  const candidates = filter?.id
    ? [context.sandboxes.find(filter.id)].filter((found) => found !== undefined)
    : context.sandboxes.values();
  return candidates
    .filter((sandbox) => visible(sandbox) && (state === undefined || stateOf(sandbox.record) === state))
    .filter((sandbox) => matchesLabels(sandbox.record.config.labels, filter?.labelSelector))
    .map(({ record }) => record);
}

export function sandboxItem(record: SandboxRecord): cri.PodSandbox {
  return create(cri.PodSandboxSchema, {
    id: record.id,
    metadata: record.config.metadata,
    state: stateOf(record),
    createdAt: record.createdAt,
    labels: record.config.labels,
    annotations: record.config.annotations,
    runtimeHandler: record.handler,
  });
}

/** ListPodSandboxResponse.items, and StreamPodSandboxesResponse.podSandboxes, which has the same number. What changes in a pod's item: its state. */
export const sandboxItems = (): ItemEncoder<SandboxRecord, typeof cri.PodSandboxSchema> =>
  new ItemEncoder({
    field: cri.ListPodSandboxResponseSchema.field.items.number,
    schema: cri.PodSandboxSchema,
    inputs: (record) => [stateOf(record)],
    message: sandboxItem,
  });
