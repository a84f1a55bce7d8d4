/** What a plan is made from besides the OCI configuration. */
import type { CgroupDirectories, HostFacts, Plan } from "@berth/kernel";
import type { oci } from "@berth/spec";

/** A seccomp filter as the kernel loads it: SECCOMP_FILTER_FLAG_* and an array of struct sock_filter. */
export interface CompiledFilter {
  readonly flags: bigint;
  readonly filter: Uint8Array;
}

export type Rootfs =
  /** A directory (or mount) of the host. */
  | {
      readonly kind: "path";
      readonly path: string;
      /** Its owners are ids of the user namespace that the container joins by path. */
      readonly idmap?: boolean | undefined;
    }
  /** An overlay made for this container; topmost layer first. Without `upper` it is read-only. */
  | {
      readonly kind: "overlay";
      readonly lowers: readonly string[];
      readonly upper?: string | undefined;
      readonly work?: string | undefined;
      /** The EROFS images that are mounted as `lowers`, for a machine that mounts them itself. */
      readonly images?: readonly string[] | undefined;
      /** Skip syncs: the upper must be discarded after an unclean shutdown. */
      readonly volatile?: boolean | undefined;
      /** The layers' owners are ids of the user namespace that the container joins by path; `upper` belongs to its root already. */
      readonly idmap?: boolean | undefined;
    };

export interface ContainerContext {
  readonly id: string;
  readonly rootfs: Rootfs;
  /** Absolute, from the hierarchies' roots, as in "/kubepods/pod1/ctr1". */
  readonly cgroup: {
    readonly path: string;
    /** v1 directories, and the cgroup2 one, that a cgroup mount shows where the container has no cgroup of its own: those it is in. */
    readonly shown?: CgroupDirectories | undefined;
  };
  readonly host: HostFacts;
  /** Already compiled (compileSeccomp); absent: none is loaded, whatever the specification says. */
  readonly seccomp?: CompiledFilter | undefined;
  /** Overrides spec.process.terminal: whether the monitor was asked for a terminal. */
  readonly terminal: boolean;
  readonly consoleSize?: oci.Box | undefined;
  /** Absolute; for the state that hooks and seccomp's listener are told. */
  readonly bundle?: string | undefined;
  /** The rootfs is moved over "/" instead of pivoted into (an initramfs cannot be pivoted). */
  readonly noPivot?: boolean | undefined;
  /** The process keeps the session keyring that it was born with. */
  readonly noNewKeyring?: boolean | undefined;
  /** Descriptors from 3 on that the process is to inherit. */
  readonly preserveFds?: number | undefined;
  /** A missing program is found out before the process is released, and told as runc tells it. */
  readonly checksProgram?: boolean | undefined;
  readonly waitAt?: WaitAt | undefined;
}

/** Where a created container's process waits for its start when no monitor stands beside it (runc's exec.fifo). */
export interface WaitAt {
  /** The container's state directory; only an unconnected copy of it is held meanwhile. */
  readonly directory: string;
  readonly fifo: string;
  /** Of the FIFO: the container's root, as the host counts. */
  readonly uid: number;
  readonly gid: number;
}

export interface ExecTarget {
  /** The container's process, in the host's PID namespace. */
  readonly pid: number;
  readonly spec: oci.Spec;
  readonly cgroup: { readonly path: string };
}

export interface ExecContext {
  readonly host: HostFacts;
  readonly seccomp?: CompiledFilter | undefined;
  readonly terminal: boolean;
  readonly consoleSize?: oci.Box | undefined;
  /** For the state that seccomp's listener is told. */
  readonly id?: string | undefined;
  readonly bundle?: string | undefined;
  readonly noNewKeyring?: boolean | undefined;
  readonly preserveFds?: number | undefined;
  /** A missing program is found out before the process is released, and told as runc tells it. */
  readonly checksProgram?: boolean | undefined;
}

/** A plan, and what had to give way to what this machine allows. */
export interface Planned {
  readonly plan: Plan;
  /** For a person: what was asked for and not done, naming the field. */
  readonly warnings: readonly string[];
}

/** A configuration that no plan can carry out; `field` is its path in the specification. */
export class PlanError extends Error {
  override readonly name = "PlanError";
  readonly field: string;
  constructor(field: string, message: string) {
    super(`${field}: ${message}`);
    this.field = field;
  }
}
