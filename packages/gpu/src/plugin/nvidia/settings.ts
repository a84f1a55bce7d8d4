/** What NVIDIA's device plugin is told by flags, variables and its file (api/config/v1 of k8s-device-plugin 0.20). */
import type { FileSettings } from "./file.ts";

export const MIG_STRATEGIES = ["none", "single", "mixed"] as const;
export const LIST_STRATEGIES = ["envvar", "volume-mounts", "cdi-annotations", "cdi-cri"] as const;
export const ID_STRATEGIES = ["uuid", "index"] as const;
export const POLICIES = ["distributed", "packed"] as const;
export const DISCOVERY_STRATEGIES = ["auto", "nvml", "tegra"] as const;
/** Of CDI specifications; the others of NVIDIA's are so anyway. */
export const CDI_FEATURES = [
  "disable-ipc-discoverer",
  "enable-coherent-annotations",
  "enable-explicit-driver-libraries",
  "no-additional-gids-for-device-nodes",
] as const;
export type MigStrategy = (typeof MIG_STRATEGIES)[number];
export type ListStrategy = (typeof LIST_STRATEGIES)[number];

/** A flag that the file does not have is the command line's, or the default. */
export interface Flags {
  readonly migStrategy: MigStrategy;
  readonly failOnInitError: boolean;
  readonly nvidiaDriverRoot: string;
  /** Where device nodes are, if not below the driver's root. */
  readonly nvidiaDevRoot: string | undefined;
  readonly gdrcopyEnabled: boolean;
  readonly gdsEnabled: boolean;
  readonly mofedEnabled: boolean;
  readonly passDeviceSpecs: boolean;
  readonly deviceListStrategy: readonly ListStrategy[];
  readonly deviceIDStrategy: (typeof ID_STRATEGIES)[number];
  readonly cdiAnnotationPrefix: string;
  readonly nvidiaCTKPath: string;
  /** Where the plugin's own container has the driver's root. */
  readonly containerDriverRoot: string;
  readonly sharedDevicesAllocationPolicy: (typeof POLICIES)[number];
  readonly deviceDiscoveryStrategy: (typeof DISCOVERY_STRATEGIES)[number];
  /** Where the host has what MPS control daemons make. */
  readonly mpsRoot: string | undefined;
  /** Where the plugin's own container, and those that share a GPU, have it. */
  readonly mpsContainerRoot: string;
  readonly cdiDisableHooks: readonly string[];
  readonly cdiFeatureFlags: readonly string[];
}

export const DEFAULT_FLAGS: Flags = {
  migStrategy: "none",
  failOnInitError: true,
  nvidiaDriverRoot: "/",
  nvidiaDevRoot: undefined,
  gdrcopyEnabled: false,
  gdsEnabled: false,
  mofedEnabled: false,
  passDeviceSpecs: false,
  deviceListStrategy: ["envvar"],
  deviceIDStrategy: "uuid",
  cdiAnnotationPrefix: "cdi.k8s.io/",
  nvidiaCTKPath: "/usr/bin/nvidia-ctk",
  containerDriverRoot: "/driver-root",
  sharedDevicesAllocationPolicy: "distributed",
  deviceDiscoveryStrategy: "auto",
  mpsRoot: undefined,
  mpsContainerRoot: "/mps",
  cdiDisableHooks: [],
  cdiFeatureFlags: [],
};

export interface SharedResource {
  readonly name: string;
  readonly replicas: number;
}

export interface Sharing {
  readonly strategy: "time-slicing" | "mps";
  /** Shared resources are called NAME.shared. */
  readonly renameByDefault: boolean;
  readonly failRequestsGreaterThanOne: boolean;
  readonly resources: readonly SharedResource[];
}

export interface NvidiaSettings extends Pick<FileSettings, "sharing" | "imex"> {
  readonly flags: Flags;
}

/** Throws Error for what does not go together. */
export function checkSettings({ flags, sharing, imex }: NvidiaSettings): void {
  if (sharing?.strategy === "mps") {
    if (flags.migStrategy === "mixed") throw new Error("using --mig-strategy=mixed is not supported with MPS");
    if (!flags.mpsRoot) throw new Error("using MPS requires --mps-root to be specified");
  }
  const { channelIDs } = imex;
  if (channelIDs.length > 1 || (channelIDs[0] ?? 0) !== 0)
    throw new Error(`invalid IMEX channel IDs: channelIDs must be [] or [0]; found [${channelIDs.join(" ")}]`);
}
