/** The Container Device Interface's own format (SPEC.md, versions 0.3.0 to 1.1.0). Names are those of the files. */

export interface CdiSpec {
  readonly cdiVersion: string;
  /** `<vendor>/<class>`. */
  readonly kind: string;
  /** Since 0.6.0. About the specification, not for the container. */
  readonly annotations?: Readonly<Record<string, string>>;
  readonly devices: readonly CdiDevice[];
  /** Made once for a container, whichever and how many of the devices it gets. */
  readonly containerEdits?: ContainerEdits;
}

export interface CdiDevice {
  readonly name: string;
  /** Since 0.6.0. */
  readonly annotations?: Readonly<Record<string, string>>;
  readonly containerEdits: ContainerEdits;
}

export interface ContainerEdits {
  /** `KEY=value`. */
  readonly env?: readonly string[];
  readonly deviceNodes?: readonly DeviceNode[];
  /** Since 1.1.0. */
  readonly netDevices?: readonly NetDevice[];
  readonly hooks?: readonly CdiHook[];
  readonly mounts?: readonly CdiMount[];
  /** Since 0.7.0. */
  readonly intelRdt?: IntelRdt;
  /** Since 0.7.0. 0 is skipped. */
  readonly additionalGids?: readonly number[];
}

export interface DeviceNode {
  /** In the container. */
  readonly path: string;
  /** On the host, where it differs. Since 0.5.0. */
  readonly hostPath?: string;
  /** "b", "c", "u" or "p"; absent or empty: as the host's node is. */
  readonly type?: string;
  /** Absent or 0: as the host's node has. */
  readonly major?: number;
  readonly minor?: number;
  /** Permission bits; absent: as the host's node has. */
  readonly fileMode?: number;
  /** Of "r", "w", "m" for the device cgroup; "none": none; absent or empty: "rwm". */
  readonly permissions?: string;
  /** Absent: the container's user, unless that is root. */
  readonly uid?: number;
  readonly gid?: number;
}

export interface CdiMount {
  readonly hostPath: string;
  readonly containerPath: string;
  readonly options?: readonly string[];
  /** Since 0.4.0. */
  readonly type?: string;
}

export const HOOK_NAMES = [
  "prestart",
  "createRuntime",
  "createContainer",
  "startContainer",
  "poststart",
  "poststop",
] as const;
export type HookName = (typeof HOOK_NAMES)[number];

export interface CdiHook {
  readonly hookName: string;
  readonly path: string;
  /** With argv[0]. */
  readonly args?: readonly string[];
  readonly env?: readonly string[];
  /** Seconds. */
  readonly timeout?: number;
}

export interface IntelRdt {
  readonly closID?: string;
  readonly l3CacheSchema?: string;
  readonly memBwSchema?: string;
  /** Since 1.1.0. */
  readonly schemata?: readonly string[];
  /** Since 1.1.0. */
  readonly enableMonitoring?: boolean;
}

/** A host's network interface to be moved into the container under another name. */
export interface NetDevice {
  readonly hostInterfaceName: string;
  readonly name: string;
}

/** A specification that was read from, or is to be written to, a file of a directory of that priority. */
export interface LoadedSpec {
  readonly spec: CdiSpec;
  readonly vendor: string;
  readonly class: string;
  readonly path: string;
  /** The index of its directory: the higher wins. */
  readonly priority: number;
}

export interface LoadedDevice {
  /** `<vendor>/<class>=<name>`. */
  readonly qualifiedName: string;
  readonly device: CdiDevice;
  readonly from: LoadedSpec;
}
