/** What NVIDIA's device plugin is told by its file: the flags by their names there, sharing and IMEX (api/config/v1 of k8s-device-plugin 0.20). */
import { type Decode, type Fields, StrictDocument, type Value } from "@berth/cdi";

export const MIG_STRATEGIES = ["none", "single", "mixed"] as const;
export const LIST_STRATEGIES = ["envvar", "volume-mounts", "cdi-annotations", "cdi-cri"] as const;
export const ID_STRATEGIES = ["uuid", "index"] as const;
export const POLICIES = ["distributed", "packed"] as const;
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
};

export interface SharedResource {
  readonly name: string;
  readonly replicas: number;
}

export interface TimeSlicing {
  /** Shared resources are called NAME.shared. */
  readonly renameByDefault: boolean;
  readonly failRequestsGreaterThanOne: boolean;
  readonly resources: readonly SharedResource[];
}

export interface FileSettings {
  readonly flags: Partial<Flags>;
  readonly timeSlicing: TimeSlicing | undefined;
  readonly imex: { readonly channelIDs: readonly number[]; readonly required: boolean };
}

export interface NvidiaSettings extends Omit<FileSettings, "flags"> {
  readonly flags: Flags;
}

type Written<T> = { -readonly [K in keyof T]?: T[K] };
interface PluginFlags {
  passDeviceSpecs?: boolean;
  deviceListStrategy?: ListStrategy[];
  deviceIDStrategy?: Flags["deviceIDStrategy"];
  cdiAnnotationPrefix?: string;
  nvidiaCTKPath?: string;
  containerDriverRoot?: string;
  sharedDevicesAllocationPolicy?: Flags["sharedDevicesAllocationPolicy"];
}
interface FileFlags {
  migStrategy?: MigStrategy;
  failOnInitError?: boolean;
  mpsRoot?: string;
  nvidiaDriverRoot?: string;
  nvidiaDevRoot?: string;
  gdrcopyEnabled?: boolean;
  gdsEnabled?: boolean;
  mofedEnabled?: boolean;
  useNodeFeatureAPI?: boolean;
  deviceDiscoveryStrategy?: "auto" | "nvml";
  plugin?: PluginFlags;
  gfd?: Record<string, string>;
}
interface Sharing {
  timeSlicing?: TimeSlicing;
}

const text: Decode<string> = (value) => value.string();
const yesNo: Decode<boolean> = (value) => value.boolean();
const among =
  <T extends string>(known: readonly T[]): Decode<T> =>
  (value) => {
    const given = value.string();
    const found = known.find((one) => one === given);
    if (found === undefined) throw value.fail(`${JSON.stringify(given)} is none of ${known.join(", ")}`);
    return found;
  };

const PLUGIN_FLAGS: Fields<PluginFlags> = {
  passDeviceSpecs: yesNo,
  deviceListStrategy: (value) => {
    const one = among(LIST_STRATEGIES);
    return value.isList ? value.list(one) : [one(value)];
  },
  deviceIDStrategy: among(ID_STRATEGIES),
  cdiAnnotationPrefix: text,
  nvidiaCTKPath: text,
  containerDriverRoot: text,
  sharedDevicesAllocationPolicy: among(POLICIES),
};
const FLAGS: Fields<FileFlags> = {
  migStrategy: among(MIG_STRATEGIES),
  failOnInitError: yesNo,
  mpsRoot: text,
  nvidiaDriverRoot: text,
  nvidiaDevRoot: text,
  gdrcopyEnabled: yesNo,
  gdsEnabled: yesNo,
  mofedEnabled: yesNo,
  useNodeFeatureAPI: yesNo,
  deviceDiscoveryStrategy: among(["auto", "nvml"] as const),
  plugin: (value) => value.object(PLUGIN_FLAGS),
  gfd: (value) => value.map(text),
};
const MAX_REPLICAS = 1000;
const SHARED: Fields<Written<SharedResource> & { devices?: "all"; rename?: string }> = {
  name: text,
  replicas: (value) => value.integer(2, MAX_REPLICAS),
  devices: among(["all"] as const),
  rename: (value) => {
    throw value.fail("names of one's own are not supported: use renameByDefault");
  },
};
const TIME_SLICING: Fields<Written<TimeSlicing>> = {
  renameByDefault: yesNo,
  failRequestsGreaterThanOne: yesNo,
  resources: (value) => value.list(shared),
};
const FILE: Fields<{ version?: "v1"; flags?: FileFlags; sharing?: Sharing; imex?: Written<FileSettings["imex"]> }> = {
  version: among(["v1"] as const),
  flags: (value) => value.object(FLAGS),
  sharing: (value) =>
    value.object<Sharing & { mps?: undefined }>({
      timeSlicing,
      mps: (mps) => {
        throw mps.fail("MPS is not supported by this plugin: use timeSlicing");
      },
    }),
  imex: (value) =>
    value.object<Written<FileSettings["imex"]>>({
      channelIDs: (list) => list.list((item) => item.integer(0, 2 ** 20 - 1)),
      required: yesNo,
    }),
};

/** Throws CdiError naming file, line, column and field. */
export function parseSettings(content: string, file?: string): FileSettings {
  const { flags = {}, sharing, imex } = StrictDocument.parse(content, file).root().object(FILE);
  const { plugin, mpsRoot: _mps, useNodeFeatureAPI: _api, deviceDiscoveryStrategy: _found, gfd: _gfd, ...own } = flags;
  return {
    flags: { ...own, ...plugin },
    timeSlicing: sharing?.timeSlicing,
    imex: { channelIDs: imex?.channelIDs ?? [], required: imex?.required ?? false },
  };
}

function timeSlicing(value: Value): TimeSlicing {
  const given = value.object(TIME_SLICING);
  if (!given.resources?.length) throw value.fail("no resources specified");
  return {
    renameByDefault: given.renameByDefault ?? false,
    failRequestsGreaterThanOne: given.failRequestsGreaterThanOne ?? false,
    resources: given.resources,
  };
}

function shared(value: Value): SharedResource {
  const { name, replicas } = value.object(SHARED);
  if (name === undefined) throw value.fail("no resource name specified");
  if (replicas === undefined) throw value.fail("no replicas specified");
  return { name, replicas };
}
