/** Pods and containers as NRI plugins are shown them. */
import { create } from "@bufbuild/protobuf";
import { containerOf } from "@berth/nri";
import { cri } from "@berth/spec";
import * as nri from "@berth/spec/nri";
import type { oci } from "@berth/spec/oci";
import type { CriContext } from "../context.ts";
import { cgroupParentOf } from "../cgroups.ts";
import { ipcPath, podNamespaces, utsPath } from "../sandbox/namespaces.ts";
import type { ContainerPhase, ContainerRecord, Sandbox } from "../store/records.ts";

const { ContainerState } = nri;

const STATES: Readonly<Record<ContainerPhase, nri.ContainerState>> = {
  creating: ContainerState.CONTAINER_UNKNOWN,
  created: ContainerState.CONTAINER_CREATED,
  starting: ContainerState.CONTAINER_CREATED,
  running: ContainerState.CONTAINER_RUNNING,
  exited: ContainerState.CONTAINER_STOPPED,
  removing: ContainerState.CONTAINER_STOPPED,
};

export function podMessage(context: CriContext, { record, init }: Sandbox): nri.PodSandbox {
  const { config } = record;
  const { metadata, linux } = config;
  return create(nri.PodSandboxSchema, {
    id: record.id,
    name: metadata?.name ?? "",
    uid: metadata?.uid ?? "",
    namespace: metadata?.namespace ?? "",
    labels: config.labels,
    annotations: config.annotations,
    runtimeHandler: record.handler,
    linux: {
      podOverhead: linux?.overhead && resourcesMessage(linux.overhead),
      podResources: linux?.resources && resourcesMessage(linux.resources),
      cgroupParent: linux?.cgroupParent ?? "",
      cgroupsPath: cgroupParentOf(context, record),
      namespaces: namespacesOf(context, record),
    },
    pid: init?.pid ?? 0,
    ips: record.ips,
  });
}

/** Where they are pinned; those that the pod shares with the host are not there. */
function namespacesOf(
  context: CriContext,
  { id, config, netns, phase }: Sandbox["record"],
): { type: string; path: string }[] {
  if (phase === "notready" || phase === "removing") return [];
  const { hostIpc } = podNamespaces(config);
  return [
    ...(netns === undefined ? [] : [{ type: "network", path: netns }]),
    ...(hostIpc ? [] : [{ type: "ipc", path: ipcPath(context, id) }]),
    ...(netns === undefined ? [] : [{ type: "uts", path: utsPath(context, id) }]),
  ];
}

export function containerMessage(record: ContainerRecord, spec: oci.Spec): nri.Container {
  const { config, imageRef } = record;
  const shown = containerOf(spec);
  const seccomp = config.linux?.securityContext?.seccomp;
  return create(nri.ContainerSchema, {
    ...shown,
    id: record.id,
    podSandboxId: record.sandboxId,
    name: config.metadata?.name ?? "",
    state: STATES[record.phase],
    labels: config.labels,
    annotations: { ...shown.annotations, ...config.annotations },
    pid: record.pid,
    createdAt: record.createdAt,
    startedAt: record.startedAt,
    finishedAt: record.finishedAt,
    exitCode: record.exitCode,
    statusReason: record.reason,
    statusMessage: record.message,
    CDIDevices: config.CDIDevices.map(({ name }) => ({ name })),
    image: {
      name: config.image?.userSpecifiedImage || (config.image?.image ?? ""),
      digest: imageRef.includes("@") ? (imageRef.split("@")[1] ?? "") : "",
      configDigest: record.imageId,
    },
    linux: {
      ...shown.linux,
      ...(seccomp && {
        seccompProfile: { profileType: Number(seccomp.profileType), localhostRef: seccomp.localhostRef },
      }),
    } as nri.LinuxContainer,
  });
}

/** As containerd tells them: zero is a value there. */
export const resourcesMessage = (from: cri.LinuxContainerResources): nri.LinuxResources =>
  create(nri.LinuxResourcesSchema, {
    cpu: {
      shares: { value: from.cpuShares },
      quota: { value: from.cpuQuota },
      period: { value: from.cpuPeriod },
      cpus: from.cpusetCpus,
      mems: from.cpusetMems,
    },
    memory: { limit: { value: from.memoryLimitInBytes } },
    hugepageLimits: from.hugepageLimits.map(({ pageSize, limit }) => ({ pageSize, limit })),
    unified: { ...from.unified },
  });

/** What the CRI has a name for of what a plugin wants changed. */
export const criResources = ({
  memory,
  cpu,
  hugepageLimits,
  unified,
}: nri.LinuxResources): cri.LinuxContainerResources =>
  create(cri.LinuxContainerResourcesSchema, {
    memoryLimitInBytes: memory?.limit?.value ?? 0n,
    memorySwapLimitInBytes: memory?.swap?.value ?? 0n,
    cpuShares: cpu?.shares?.value ?? 0n,
    cpuQuota: cpu?.quota?.value ?? 0n,
    cpuPeriod: cpu?.period?.value ?? 0n,
    cpusetCpus: cpu?.cpus ?? "",
    cpusetMems: cpu?.mems ?? "",
    hugepageLimits: hugepageLimits.map(({ pageSize, limit }) => ({ pageSize, limit })),
    unified: { ...unified },
  });
