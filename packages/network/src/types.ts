/** What a runtime says to CNI, and what it hears back. */
import type { Hand } from "@berth/kernel";
import type { Json } from "./conf.ts";
import type { Log } from "./log.ts";
import type { CniDns, CniInterface, CniIp, CniRoute } from "./result.ts";

export const DEFAULT_CONF_DIR = "/etc/cni/net.d";
export const DEFAULT_BIN_DIRS: readonly string[] = ["/opt/cni/bin", "/usr/lib/cni"];
export const DEFAULT_CACHE_DIR = "/var/lib/cni";

/** One plugin's call, as it has ended. */
export interface CniCall {
  readonly network: string;
  readonly plugin: string;
  readonly command: string;
  /** Absent for calls about no container. */
  readonly containerId: string | undefined;
  /** Nanoseconds since the epoch. */
  readonly startedAt: bigint;
  readonly error?: unknown;
}

export interface CniOptions {
  /** Told of every plugin's call when it has ended. */
  readonly onCall?: (call: CniCall) => void;
  readonly hand: Hand;
  /** Default /etc/cni/net.d. */
  readonly confDir?: string;
  /** Default /opt/cni/bin and /usr/lib/cni. */
  readonly binDirs?: readonly string[];
  /** Default /var/lib/cni; attachments are kept in its folder `results`. */
  readonly cacheDir?: string;
  /** How many networks a pod is attached to: the first that are valid, by file name. 0: all. Default 1. */
  readonly maxNetworks?: number;
  /** Marks this runtime's attachments in a shared cache, so that its `gc` leaves other runtimes' alone. */
  readonly owner?: string;
  readonly log?: Log;
  /** Called after the configuration has changed. */
  readonly onChange?: () => void;
}

export interface PortMapping {
  readonly hostPort: number;
  readonly containerPort: number;
  readonly protocol: "tcp" | "udp" | "sctp";
  readonly hostIP?: string;
}

/** Given to the plugins that declare the capability (CNI conventions, "Dynamic plugin specific fields"). */
export interface Capabilities {
  readonly portMappings?: readonly PortMapping[];
  readonly dns?: {
    readonly servers?: readonly string[];
    readonly searches?: readonly string[];
    readonly options?: readonly string[];
  };
  /** Rates in bits a second, bursts in bits. */
  readonly bandwidth?: {
    readonly ingressRate?: number;
    readonly ingressBurst?: number;
    readonly egressRate?: number;
    readonly egressBurst?: number;
  };
  readonly ipRanges?: readonly (readonly Json[])[];
  readonly ips?: readonly string[];
  readonly mac?: string;
  readonly cgroupPath?: string;
  readonly [capability: string]: unknown;
}

export interface AttachRequest {
  readonly containerId: string;
  /** Path of the network namespace. DEL also takes "" or one that is gone. */
  readonly netns: string;
  /** The first network's interface; further networks count on from it. Default "eth0". */
  readonly ifName?: string;
  /** CNI_ARGS; see `kubernetesArgs`. */
  readonly args?: Readonly<Record<string, string>>;
  readonly capabilities?: Capabilities;
}

export interface CniResult {
  /** The pod's addresses on its first network, in the plugins' order. */
  readonly ips: readonly CniIp[];
  readonly interfaces: readonly CniInterface[];
  readonly routes: readonly CniRoute[];
  readonly dns: CniDns;
  /** One per network, as its last plugin answered. */
  readonly networks: readonly { readonly network: string; readonly ifName: string; readonly result: Json }[];
}

export interface CniStatus {
  readonly ready: boolean;
  /** What to do about it; "" when ready. */
  readonly reason: string;
  /** The first network's name. */
  readonly network: string | undefined;
}

/** The CNI_ARGS that Kubernetes runtimes give. */
export function kubernetesArgs(pod: {
  readonly namespace: string;
  readonly name: string;
  readonly id: string;
  readonly uid: string;
}): Record<string, string> {
  return {
    IgnoreUnknown: "1",
    K8S_POD_NAMESPACE: pod.namespace,
    K8S_POD_NAME: pod.name,
    K8S_POD_INFRA_CONTAINER_ID: pod.id,
    K8S_POD_UID: pod.uid,
  };
}
