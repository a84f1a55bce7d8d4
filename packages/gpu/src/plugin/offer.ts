/** What the plugin has for the kubelet under one resource name. */

/** As the kubelet counts them: a device, or a share of one. */
export interface ListedDevice {
  readonly id: string;
  /** What keeps it from being given to a container; undefined: it is healthy. */
  readonly problem: string | undefined;
  readonly numaNodes: readonly number[];
}

/** For one container. */
export interface Allocation {
  readonly envs?: Record<string, string>;
  readonly mounts?: { readonly containerPath: string; readonly hostPath: string; readonly readOnly: boolean }[];
  readonly devices?: { readonly containerPath: string; readonly hostPath: string; readonly permissions: string }[];
  readonly annotations?: Record<string, string>;
  readonly cdiDevices?: { readonly name: string }[];
}

export interface Preference {
  readonly available: readonly string[];
  readonly must: readonly string[];
  readonly size: number;
}

/** Said to the kubelet as InvalidArgument. */
export class AllocationError extends Error {
  override readonly name = "AllocationError";
}

/** Answers of one resource: the same devices give the same ones. */
export interface Offer<D extends ListedDevice> {
  /** The extended resource: "vendor.com/gpu". */
  readonly name: string;
  /** Its socket's name, beside the kubelet's. */
  readonly socketName: string;
  /** Throws AllocationError for an id that is not, or not any more, a device. */
  allocate(devices: readonly D[], ids: readonly string[]): Allocation;
  /** `size` of `available`, among them all of `must`. Throws AllocationError when there are not so many. */
  preferred(devices: readonly D[], request: Preference): string[];
}
