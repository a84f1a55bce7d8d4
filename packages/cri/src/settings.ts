/** What the configuration says about pods and containers. Names as in containerd's file, where it has the setting. */

export interface CriSettings {
  /** Bytes of content in one line of a container's log before it is split. */
  readonly maxLogLine: number;
  /** ms that output held open by a grandchild is awaited after an ExecSync's process has exited. */
  readonly execDrainMs: number;
  /** The streaming server's address. */
  readonly streamAddress: string;
  /** 0: any free one. */
  readonly streamPort: number;
  /** ms without a byte after which a stream is closed; 0: never. */
  readonly streamIdleMs: number;
  /** PEM files, or a certificate of berthd's own; undefined: without TLS. */
  readonly streamTls: { readonly certFile: string; readonly keyFile: string } | "self-signed" | undefined;
  /** For handlers that need a process to hold a pod; undefined: berth's own empty one. */
  readonly sandboxImage: string | undefined;
  /** From which a network is made when the kubelet says the pods' CIDR and there is none; undefined: it is for others to make. */
  readonly cniTemplate: { readonly file: string; readonly confDir: string } | undefined;
  /** CheckpointContainer, and containers made of checkpoints. */
  readonly enableCriu: boolean;
  /** CreateContainer of a checkpoint's archive or image. */
  readonly restoreViaCreate: boolean;
  readonly enableCdi: boolean;
  readonly cdiSpecDirs: readonly string[];
  /** For containers whose request has no seccomp profile: "", "unconfined", "runtime/default" or "localhost/PATH". */
  readonly unsetSeccompProfile: string;
  readonly disableApparmor: boolean;
  /** No container is given a lower oom_score_adj than berthd's own. */
  readonly restrictOomScoreAdj: boolean;
  /** Huge page limits are dropped where the kernel has no such controller, rather than refused. */
  readonly tolerateMissingHugetlb: boolean;
  /** Huge page limits are always dropped. */
  readonly disableHugetlb: boolean;
  /** A container's devices belong to its run_as_user and run_as_group. */
  readonly deviceOwnershipFromSecurityContext: boolean;
  /** Pods may bind every port without a capability. */
  readonly unprivilegedPorts: boolean;
  /** Pods may send ICMP echo requests without a capability. */
  readonly unprivilegedIcmp: boolean;
  /** Which of a pod's addresses comes first: "cni" leaves them as the plugins name them. */
  readonly ipPreference: "ipv4" | "ipv6" | "cni";
}
