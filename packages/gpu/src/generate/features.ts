/** What the toolkit calls feature flags of how specifications are generated. */

/** The sandbox utilities' library is not asked anyway. */
export const FEATURES = [
  "disable-ipc-discoverer",
  "disable-multiple-csv-devices",
  "disable-nvsandbox-utils",
  "disable-nvsandboxutils",
  "enable-coherent-annotations",
  "enable-explicit-driver-libraries",
  "no-additional-gids-for-device-nodes",
];

export interface Features {
  /** The sockets of the driver's daemons are left out. */
  readonly withoutSockets: boolean;
  /** Libraries beside the driver's own, which other packages have too, are mounted as well. */
  readonly withExplicitLibraries: boolean;
  /** Whole GPUs are told apart by whether they reach the machine's memory coherently. */
  readonly withCoherence: boolean;
  /** Of a Tegra system: a discrete GPU beside the chip's own is not looked for. */
  readonly oneDevice: boolean;
  /** A group that alone may use a node is made one of the container's. */
  readonly withGroups: boolean;
}

/** Flags that are not known have no effect. */
export function featuresOf(flags: readonly string[]): Features {
  return {
    withoutSockets: flags.includes("disable-ipc-discoverer"),
    withExplicitLibraries: flags.includes("enable-explicit-driver-libraries"),
    withCoherence: flags.includes("enable-coherent-annotations"),
    oneDevice: flags.includes("disable-multiple-csv-devices"),
    withGroups: !flags.includes("no-additional-gids-for-device-nodes"),
  };
}
