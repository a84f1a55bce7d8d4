/** What the daemon knows of pods and containers: what survives a restart (records), beside what a process holds (links). */
import type { cri, oci } from "@berth/spec";
import type { MonitorLink, SystemdPlace } from "@berth/kernel";
import type { Rootfs, RuntimeBinary } from "@berth/runtime";

/**
 * creating: RunPodSandbox is under way (or died under way: the next start removes it). ready, notready: as the CRI says.
 * removing: RemovePodSandbox has begun.
 */
export type SandboxPhase = "creating" | "ready" | "notready" | "removing";

export interface SandboxRecord {
  readonly id: string;
  readonly config: cri.PodSandboxConfig;
  readonly handler: string;
  /** Its cgroups are systemd's, as the handler said when it was made. */
  readonly systemdCgroup?: boolean | undefined;
  /** Nanoseconds since the epoch, as all times here. */
  readonly createdAt: bigint;
  /** The runtime kind that made it; absent: one whose pods are namespaces alone. */
  readonly runtime?: string | undefined;
  /** What that kind needs to find of it after a restart: JSON. */
  runtimeState?: Readonly<Record<string, unknown>> | undefined;
  phase: SandboxPhase;
  /** Where the network namespace is pinned; undefined on the host's network. */
  netns?: string | undefined;
  /** Whether CNI ADD has begun and DEL has not succeeded since. */
  networked: boolean;
  ips: string[];
}

export interface Sandbox {
  readonly record: SandboxRecord;
  /** The last that NRI plugins were told of its end. */
  toldPlugins?: "stopped" | "removed" | undefined;
  /** Of the pod's reaping PID 1, where the pod shares its PID namespace. */
  init?: { readonly pid: number; readonly link?: MonitorLink | undefined } | undefined;
}

/** creating and removing as for sandboxes; starting: StartContainer has begun. */
export type ContainerPhase = "creating" | "created" | "starting" | "running" | "exited" | "removing";

export interface ContainerUser {
  readonly uid: number;
  readonly gid: number;
  readonly additionalGids: readonly number[];
}

export interface ContainerRecord {
  readonly id: string;
  readonly sandboxId: string;
  readonly config: cri.ContainerConfig;
  readonly createdAt: bigint;
  /** Of the image it was made from (config digest). */
  readonly imageId: string;
  /** A repository digest of that image, or its id where it has none. */
  readonly imageRef: string;
  /** Absolute, or "" when the pod has no log directory. */
  readonly logPath: string;
  /** As in oci.Linux.cgroupsPath of the cgroupfs driver. Until it is made an NRI plugin may choose another. */
  cgroupPath: string;
  /** Under systemd: whose cgroup that is. */
  unit?: SystemdPlace | undefined;
  /** The runtime kind that made it; absent: "oci" with a binary, "in-process" without. */
  readonly runtime?: string | undefined;
  /** Of the OCI runtime that made it. */
  readonly binary?: RuntimeBinary | undefined;
  /** A signal's number. */
  readonly stopSignal: number;
  readonly user: ContainerUser;
  phase: ContainerPhase;
  pid: number;
  startedAt: bigint;
  finishedAt: bigint;
  exitCode: number;
  reason: string;
  message: string;
  resources?: cri.LinuxContainerResources | undefined;
}

export interface Container {
  readonly record: ContainerRecord;
  /** While its monitor lives. */
  link?: MonitorLink | undefined;
  /** Settles when the exit has been recorded and the container's cgroup is gone. */
  ended?: Promise<void> | undefined;
  spec?: oci.Spec | undefined;
  rootfs?: Rootfs | undefined;
  /** The last that NRI plugins were told of its end. */
  toldPlugins?: "stopped" | "removed" | undefined;
  /** The events about it that were given out. */
  told?: Set<cri.ContainerEventType> | undefined;
}
