/**
 * What makes, follows and ends containers in a guest, whichever agent the guest has. Whoever runs containers (the CRI, a shim) works with
 * this and with nothing else of a guest's.
 *
 * A container of a guest's has a stand-in on the host: a process under an ordinary bosun monitor whose streams are the container's, which
 * parks until the container is started, and exits with its code. So logs, attach, exec sessions and exit records know nothing of machines.
 */
import type { Socket } from "node:net";
import { type CgroupDetail, type CgroupStats, type MonitorLink, type Order, type ProcessTally } from "@berth/kernel";
import type { oci } from "@berth/spec";

/** Where the guest has what all its containers share. */
export interface GuestPlaces {
  /** The machine's share; a container's part of it is in the directory of its id. */
  readonly share: string;
  /** The pod's /dev/shm. */
  readonly shm: string;
}

/** A container as its guest is asked to make it. */
export interface GuestContainer {
  readonly id: string;
  /** Its paths are the guest's. */
  readonly spec: oci.Spec;
  readonly terminal: boolean;
  readonly stdin: boolean;
  /** On the host, of this container and kept until its release: what its execs and its stand-in need is put there. */
  readonly directory: string;
  /** On the host, of compiled filters. */
  readonly seccompCache: string;
  readonly warn: (message: string) => void;
}

/** A further process of a container. */
export interface GuestProcess {
  readonly id: string;
  readonly process: oci.Process;
  /** The container's, as in GuestContainer. */
  readonly directory: string;
  readonly seccompCache: string;
  /** How long after its exit output is awaited that a grandchild may still hold open, in milliseconds. */
  readonly drainMs: number;
}

/** Disposing ends what still runs of it, where the end of its stand-in does not. */
export interface GuestExec extends AsyncDisposable {
  /** Ends the plan of its stand-in. */
  readonly last: Order;
  /** `work` carries that plan out; its failure is told in the guest's words. */
  told<T>(work: Promise<T>): Promise<T>;
}

export interface GuestCallOptions {
  readonly signal?: AbortSignal | undefined;
}

/** What of the whole guest is asked beside its containers. */
export interface GuestTools {
  /** Of the guest and its agent, by Kata's names, in the Prometheus text format. */
  metrics(): Promise<string>;
  /** Of all containers together. Undefined: the agent does not tell. */
  usage(): Promise<Usage | undefined>;
  /** Undefined: the agent does not tell. */
  boot(): Promise<GuestBoot | undefined>;
  /** As iptables-save(8) says it. */
  readIptables(v6: boolean): Promise<Uint8Array>;
  /** As iptables-restore(8) takes it: what is there is replaced. */
  writeIptables(v6: boolean, rules: Uint8Array): Promise<void>;
  /** In Rego, for an agent that has policies of its own. */
  setPolicy(text: string): Promise<void>;
  /** Of the file system that is mounted at a path of the guest's. */
  volumeStats(path: string): Promise<VolumeStats>;
}

export interface VolumeUsage {
  readonly unit: "bytes" | "inodes";
  readonly available: bigint;
  readonly total: bigint;
  readonly used: bigint;
}

export interface VolumeStats {
  readonly usage: readonly VolumeUsage[];
  readonly condition: { readonly abnormal: boolean; readonly message: string };
}

/** When its kernel began, and when its first program served: nanoseconds of the node's clock since the epoch. */
export interface GuestBoot {
  readonly kernelAt: bigint;
  readonly servedAt: bigint;
}

/** At one moment. */
export interface Usage {
  /** Nanoseconds of processor time. */
  readonly cpuNs: bigint;
  readonly memoryBytes: bigint;
}

export interface GuestRuntime {
  readonly places: GuestPlaces;
  readonly tools: GuestTools;
  /** Makes the container, parked. Answers what ends its stand-in's plan, and starts the container when the stand-in is started. */
  create(container: GuestContainer): Promise<Order>;
  /** `work` starts the container; its failure is told in the guest's words. */
  told<T>(id: string, work: Promise<T>): Promise<T>;
  exec(process: GuestProcess): Promise<GuestExec>;
  /** To the container's own process; one that has gone meanwhile is no error. */
  signal(id: string, signal: number): Promise<void>;
  /** SIGKILL for all that is in it. False: nothing of it lived. Rejects where the guest does not answer. */
  kill(id: string): Promise<boolean>;
  /** Everything of it in the guest; idempotent. Rejects where the guest does not answer. */
  release(id: string): Promise<void>;
  update(id: string, resources: oci.LinuxResources, options?: GuestCallOptions): Promise<void>;
  /** Undefined: it is gone. `directory` as in GuestContainer. */
  stats(id: string, directory: string): Promise<CgroupStats | undefined>;
  /** What monitoring asks beyond that. Undefined: it is gone, or this guest cannot be looked into that deeply. */
  detail(id: string, directory: string): Promise<GuestDetail | undefined>;
  /** Resolves when nothing of it runs. */
  pause(id: string): Promise<void>;
  resume(id: string): Promise<void>;
  /** Takes processors into use that were plugged in: `added` of them, so that there are `count`. Resolves when it runs on them. */
  online(count: number, added: number): Promise<void>;
  /** The reaping PID 1 of containers that share their PID namespace. */
  startInit(): Promise<GuestInit>;
  /** One that an earlier daemon has started. Undefined: there is none. */
  findInit(): Promise<GuestInit | undefined>;
  /** A connection to a port of the machine's loopback. */
  dial(port: number): Promise<Socket>;
}

export interface GuestDetail {
  readonly cgroup: CgroupDetail;
  readonly processes: ProcessTally;
}

export interface GuestInit {
  /** In the guest. */
  readonly pid: number;
  readonly link?: MonitorLink | undefined;
}
