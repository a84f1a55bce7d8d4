/** What makes a shim's containers and reaches into them: berth's own plans on this host, or a virtual machine's guest. */
import type { Hand, HostFacts, MonitorRequest, Plan } from "@berth/kernel";
import type { oci } from "@berth/spec";
import type { runcOptions, types } from "@berth/spec/shim";
import type { Any } from "@bufbuild/protobuf/wkt";

/** What a shim works with. */
export interface Machine {
  readonly hand: Hand;
  readonly host: HostFacts;
  /** Compiled filters. */
  readonly cache: string;
  readonly log: (message: string) => void;
}

export interface MakingRequest {
  readonly id: string;
  readonly bundle: string;
  readonly spec: oci.Spec;
  /** Where config.json says that the root file system is. */
  readonly rootfsPath: string;
  /** What containerd has mounted nowhere yet. */
  readonly rootfs: readonly types.Mount[];
  readonly terminal: boolean;
  readonly stdin: boolean;
  /** Of its own, there already. */
  readonly dir: string;
  /** Of the images of CRIU that it is to be restored from; "": it is new. */
  readonly checkpoint: string;
  /** As containerd has encoded them; undefined: the shim's own count. */
  readonly options: Any | undefined;
}

/** Of the process that a container's monitor holds: its own, or one that stands for it. */
export interface Prepared {
  readonly plan: Plan;
  readonly oom: MonitorRequest["oom"];
  /** Whether its process is a grandchild of the monitor's. */
  readonly subreaper?: boolean;
  /** Puts the failure of the plan (`work`) in the words of what carries it out. */
  readonly told?: <T>(work: Promise<T>) => Promise<T>;
}

/** A further process: `told` puts the failure of its start (`work`) in the words of what made it. */
export interface PreparedExec {
  readonly plan: Plan;
  readonly told?: <T>(work: Promise<T>) => Promise<T>;
  /** Nobody is interested in it any more. */
  readonly dispose?: () => Promise<void>;
}

/** One container. Methods may be called once `prepare` has been; `release` also where that failed half-way. */
export interface Making {
  /** Everything up to where it would run. */
  prepare(): Promise<Prepared>;
  /** The monitor's process has parked. */
  parked(pid: number): Promise<void>;
  /** Has its program run: `start` does that where it is parked, and answers its process. */
  start(start: () => Promise<number>): Promise<void>;
  exec(pid: number, process: oci.Process): Promise<PreparedExec>;
  /** SIGKILL for all that is in it. */
  killAll(): Promise<void>;
  /** To its own process, where the monitor's only stands for it. */
  signal?(signal: number): Promise<void>;
  pause(): Promise<void>;
  resume(): Promise<void>;
  update(resources: oci.LinuxResources): Promise<void>;
  stats(): Promise<Any>;
  /** In the host's PID namespace, as far as they are in it. */
  pids(): Promise<readonly number[]>;
  checkpoint(pid: number, path: string, options: runcOptions.CheckpointOptions | undefined): Promise<void>;
  /** Everything of it; its monitor has ended or is ended by it. Idempotent. */
  release(): Promise<void>;
}

export interface Maker {
  readonly machine: Machine;
  /** Told how long each call took, by its name in Kata's metrics, in milliseconds. */
  readonly observe?: (milliseconds: number, verb: string) => void;
  making(request: MakingRequest): Making;
  /** The shim ends. */
  close(): Promise<void>;
}
