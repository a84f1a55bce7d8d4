/**
 * What serves a runtime handler's pods and containers. Everything in the CRI's verbs that depends on how a container is made goes
 * through this interface: in process, by an OCI runtime's command line, by a shim, in a virtual machine.
 *
 * The contract that all kinds keep:
 * - A container has an ordinary bosun monitor on the host, whose process is the container's own or stands for it: its streams are the
 *   container's, it parks until the container is started, and it exits with the container's code. So log, attach, resize, exec
 *   sessions, exit record and adoption after a restart are the same for all, and no kind does them again.
 * - A kind keeps nothing in memory that it could not find again: what a restart needs is in the records (`SandboxRecord.runtimeState`,
 *   `ContainerRecord.binary`) or in the pod's and the container's directories.
 * - What takes away is idempotent, also after a creation that failed half-way and after a crash; what makes may leave things behind when
 *   it fails, because its counterpart is called then. Methods of pods are called with the sandbox's lock held.
 */
import type { Socket } from "node:net";
import type { CgroupDetail, CgroupStats, MonitorRequest, MonitorState, Plan, ProcessTally } from "@berth/kernel";
import type { Rootfs } from "@berth/runtime";
import type { cri, oci } from "@berth/spec";
import type { DumpRequest } from "../checkpoint/dump.ts";
import type { Checkpoint } from "../checkpoint/restore.ts";
import type { CriContext } from "../context.ts";
import type { RuntimeHandler } from "../handlers.ts";
import type { Progress } from "../progress.ts";
import type { UsernsMaps } from "../sandbox/userns.ts";
import type { Container, ContainerRecord, Sandbox } from "../store/records.ts";

export interface HandlerFeatures {
  readonly recursiveReadOnlyMounts: boolean;
  readonly userNamespaces: boolean;
}

/** A container that is being made, with its record, its directory and its root file system prepared. */
export interface Creation {
  readonly container: Container;
  readonly sandbox: Sandbox;
  readonly handler: RuntimeHandler;
  readonly spec: oci.Spec;
  readonly rootfs: Rootfs;
  /** The path of the pod's user namespace. */
  readonly userns: string | undefined;
  /** What it is restored from. */
  readonly checkpoint: Checkpoint | undefined;
}

/** A further process, for as long as somebody is interested in it: disposing ends what still runs of it. */
export interface ExecCall extends AsyncDisposable {
  /** Of a session of the container's monitor. */
  readonly plan: Plan;
  /** `work`, the carrying out of the plan, whose failure is told in the runtime's words. */
  told<T>(work: Promise<T>): Promise<T>;
}

/** All of what a container's cgroup and processes tell, for ListPodSandboxMetrics. */
export interface ContainerDetail {
  readonly cgroup: CgroupDetail;
  readonly processes: ProcessTally;
}

export interface PodKind {
  /** Whether its pods are more than namespaces: such a pod stays with its kind whatever becomes of its handler. */
  readonly ownsPods: boolean;
  /** Last of RunPodSandbox: namespaces, files and network are there; the record is saved after it. */
  startPod(context: CriContext, progress: Progress, sandbox: Sandbox): Promise<void>;
  /** Before the first container that shares the pod's PID namespace; `sandbox.init` is set afterwards. */
  ensureInit(context: CriContext, sandbox: Sandbox, signal: AbortSignal): Promise<void>;
  /** Its containers have ended; its network and namespaces go next. */
  releasePod(context: CriContext, sandbox: Sandbox): Promise<void>;
  /** A ready pod of an earlier daemon's. False: what it stood on is gone, and it is to be stopped. */
  adoptPod(context: CriContext, sandbox: Sandbox): Promise<boolean>;
  /** A connection to a port of the pod's loopback. */
  dial(context: CriContext, sandbox: Sandbox, port: number): Promise<Socket>;
}

export interface RuntimeKind extends PodKind {
  /** In records: never changed. */
  readonly name: string;
  serves(handler: RuntimeHandler): boolean;
  /** FailedPrecondition for what is missing on this node. Before anything is made of a pod. */
  check(context: CriContext, handler: RuntimeHandler): Promise<void>;
  /** `own`: those of this kernel, for containers that are made in process. */
  features(context: CriContext, handler: RuntimeHandler, own: HandlerFeatures): Promise<HandlerFeatures>;

  /** What of it the container's record keeps. */
  recordOf(context: CriContext, handler: RuntimeHandler, sandbox: Sandbox): Promise<Partial<ContainerRecord>>;
  /** The OCI config as this kind takes it. */
  adapt(context: CriContext, spec: oci.Spec, userns: UsernsMaps | undefined): oci.Spec;
  /** Whether poststart and poststop hooks are berthd's to run. */
  readonly leavesHooks: boolean;
  /** Of the container's monitor: everything up to `park`, and what its start does. */
  plan(context: CriContext, creation: Creation): Promise<Plan>;
  /** Whether the container's process is a grandchild of the monitor's. */
  readonly subreaper: boolean;
  /** Which counter marks an exit as a kill for memory. */
  oom(context: CriContext, record: ContainerRecord): MonitorRequest["oom"];
  /** `work` carries out the container's plan or releases it; its failure is told in the runtime's words. */
  told<T>(context: CriContext, record: ContainerRecord, work: Promise<T>): Promise<T>;
  /** The monitor's process is parked, and connected to (`container.link`): the rest of the creation. Sets `record.pid`. */
  made(context: CriContext, progress: Progress, creation: Creation): Promise<void>;
  /** The monitor has answered that the process runs, or was found by a new daemon: `record.pid` as it is now. */
  pidOf(context: CriContext, record: ContainerRecord, state: MonitorState): Promise<number>;
  /** To the container's own process; one that has gone meanwhile is no error. */
  signal(context: CriContext, container: Container, signal: number): Promise<void>;
  /** SIGKILL for all that is in it. Its end is seen by its monitor. */
  kill(context: CriContext, container: Container): Promise<void>;
  /** Everything of the runtime's own, its processes and its cgroup; the container's directory and rootfs are the caller's. */
  release(context: CriContext, record: ContainerRecord): Promise<void>;

  exec(context: CriContext, container: Container, spec: oci.Spec, process: oci.Process): Promise<ExecCall>;
  /** `linux`: what changes; `merged`: all that holds from then on. */
  update(
    context: CriContext,
    container: Container,
    linux: cri.LinuxContainerResources,
    merged: cri.LinuxContainerResources,
    signal: AbortSignal,
  ): Promise<void>;
  /** Undefined: it does not run any more. */
  stats(context: CriContext, record: ContainerRecord): Promise<CgroupStats | undefined>;
  /** Undefined: it does not run any more, or cannot be looked into that deeply. */
  detail(context: CriContext, record: ContainerRecord): Promise<ContainerDetail | undefined>;
  /** Why none of its containers can be checkpointed; absent: they can. */
  readonly noDump?: string;
  /** CRIU's images into `images`; `archive` is run while the container stands still. */
  dump(context: CriContext, request: DumpRequest, images: string, archive: readonly string[]): Promise<void>;
  /** What made it, as checkpoints name it. */
  programOf(record: ContainerRecord): string;
  /** Once, at berthd's start: what an earlier one has left that is no pod's. */
  recover?(context: CriContext): Promise<void>;
  /** berthd ends: connections are closed, nothing else. */
  close?(context: CriContext): Promise<void>;
  /** The plan that made it, for `berth plan`; FailedPrecondition where there is none to show. */
  explain(context: CriContext, container: Container, spec: oci.Spec): Plan;
}
