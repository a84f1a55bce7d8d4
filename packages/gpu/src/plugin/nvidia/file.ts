/** The configuration file that NVIDIA's device plugin, MPS control daemon and GPU feature discovery share. */
import { type Decode, type Fields, StrictDocument, type Value } from "@berth/cdi";
import { parseDuration } from "./duration.ts";
import {
  DISCOVERY_STRATEGIES,
  type Flags,
  ID_STRATEGIES,
  LIST_STRATEGIES,
  MIG_STRATEGIES,
  POLICIES,
  type Sharing,
} from "./settings.ts";

/** What the file may say for node labels alone. */
export interface LabelFileFlags {
  readonly oneshot: boolean;
  readonly noTimestamp: boolean;
  /** ms; Infinity: labels are made once. */
  readonly sleepInterval: number;
  readonly outputFile: string;
  readonly machineTypeFile: string;
}

export interface FileSettings {
  readonly flags: Partial<Omit<Flags, "deviceDiscoveryStrategy">>;
  readonly discovery: string | undefined;
  readonly useNodeFeatureAPI: boolean | undefined;
  readonly labels: Partial<LabelFileFlags>;
  readonly sharing: Sharing | undefined;
  readonly imex: { readonly channelIDs: readonly number[]; readonly required: boolean };
  /** Of what has no effect. */
  readonly warnings: readonly string[];
}

type Written<T> = { -readonly [K in keyof T]?: T[K] };
type PluginFlags = Written<
  Pick<
    Flags,
    | "passDeviceSpecs"
    | "deviceListStrategy"
    | "deviceIDStrategy"
    | "cdiAnnotationPrefix"
    | "nvidiaCTKPath"
    | "containerDriverRoot"
    | "sharedDevicesAllocationPolicy"
  >
>;
type CommonFlags = Written<
  Pick<Flags, "migStrategy" | "failOnInitError" | "nvidiaDriverRoot" | "gdrcopyEnabled" | "gdsEnabled" | "mofedEnabled">
> & { mpsRoot?: string; nvidiaDevRoot?: string };
type FileFlags = CommonFlags & {
  useNodeFeatureAPI?: boolean;
  deviceDiscoveryStrategy?: string;
  plugin?: PluginFlags;
  gfd?: Written<LabelFileFlags>;
};
/** Sharing.ReplicatedResources of the reference. */
interface Replicated extends Omit<Sharing, "strategy" | "failRequestsGreaterThanOne"> {
  readonly failRequestsGreaterThanOne: boolean | undefined;
  readonly warnings: readonly string[];
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
const LABEL_FLAGS: Fields<Written<LabelFileFlags>> = {
  oneshot: yesNo,
  noTimestamp: yesNo,
  sleepInterval: (value) => {
    const given = value.string();
    // A bare number is nanoseconds.
    if (/^\d+(\.\d+)?$/.test(given)) return Number(given) / 1e6;
    try {
      return parseDuration(given);
    } catch (error) {
      throw value.fail((error as Error).message);
    }
  },
  outputFile: text,
  machineTypeFile: text,
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
  deviceDiscoveryStrategy: among([...DISCOVERY_STRATEGIES, "vfio"]),
  plugin: (value) => value.object(PLUGIN_FLAGS),
  gfd: (value) => value.object(LABEL_FLAGS),
};
const PREFIX = "nvidia.com/";
/** Of a resource's name with its prefix. */
const MAX_NAME = 63;
const MAX_REPLICAS = 1000;
interface WrittenResource {
  name?: string;
  rename?: string;
  devices?: unknown;
  replicas?: number;
}
const SHARED: Fields<WrittenResource> = {
  name: resourceName,
  rename: resourceName,
  devices: chosenDevices,
  replicas: (value) => value.integer(2, MAX_REPLICAS),
};
interface WrittenSharing {
  renameByDefault?: boolean;
  failRequestsGreaterThanOne?: boolean;
  resources?: WrittenResource[];
}
const SHARING: Fields<WrittenSharing> = {
  renameByDefault: yesNo,
  failRequestsGreaterThanOne: yesNo,
  resources: (value) => value.list(sharedResource),
};
interface File {
  version?: "v1";
  flags?: FileFlags;
  resources?: unknown;
  sharing?: { timeSlicing?: Replicated; mps?: Replicated };
  imex?: Written<FileSettings["imex"]>;
}
const MAX_CHANNEL = 2 ** 20 - 1;
const FILE: Fields<File> = {
  version: among(["v1"] as const),
  flags: (value) => value.object(FLAGS),
  resources: (value) => value.map(() => true),
  sharing: (value) =>
    value.object<NonNullable<File["sharing"]>>({
      timeSlicing: (shared) => replicated(shared, "timeSlicing"),
      mps: (shared) => replicated(shared, "mps"),
    }),
  imex: (value) =>
    value.object<Written<FileSettings["imex"]>>({
      channelIDs: (list) => list.list((item) => item.integer(0, MAX_CHANNEL)),
      required: yesNo,
    }),
};

/** Throws CdiError naming file, line, column and field. */
export function parseSettings(content: string, file?: string): FileSettings {
  const { flags = {}, resources, sharing, imex } = StrictDocument.parse(content, file).root().object(FILE);
  const { plugin, gfd, useNodeFeatureAPI, deviceDiscoveryStrategy, ...own } = flags;
  const unsupported = "is not yet supported in the config: it has no effect";
  return {
    flags: { ...own, ...plugin },
    discovery: deviceDiscoveryStrategy,
    useNodeFeatureAPI,
    labels: gfd ?? {},
    sharing: sharingOf(sharing ?? {}),
    imex: { channelIDs: imex?.channelIDs ?? [], required: imex?.required ?? false },
    warnings: [
      ...(resources === undefined ? [] : [`customizing the "resources" field ${unsupported}`]),
      ...[sharing?.timeSlicing, sharing?.mps].flatMap(
        (one) => one?.warnings.map((what) => `${what} ${unsupported}`) ?? [],
      ),
    ],
  };
}

/** MPS goes first. There a container gets one share, unless the file says that it may have more. */
function sharingOf({ mps, timeSlicing }: NonNullable<File["sharing"]>): Sharing | undefined {
  const chosen = mps ?? timeSlicing;
  if (chosen === undefined) return undefined;
  const { warnings: _, failRequestsGreaterThanOne, ...own } = chosen;
  const strategy = mps === undefined ? "time-slicing" : "mps";
  return { ...own, strategy, failRequestsGreaterThanOne: failRequestsGreaterThanOne ?? mps !== undefined };
}

function replicated(value: Value, name: string): Replicated {
  const { renameByDefault = false, failRequestsGreaterThanOne, resources } = value.object(SHARING);
  if (!resources?.length) throw value.fail("no resources specified");
  const hasOwnName = resources.some(({ name: from, rename }) =>
    renameByDefault ? rename !== undefined && rename !== `${from}.shared` : rename !== undefined,
  );
  const picksDevices = resources.some(({ devices = "all" }) => devices !== "all");
  return {
    renameByDefault,
    failRequestsGreaterThanOne,
    resources: resources.map(({ name = "", replicas = 1 }) => ({ name, replicas })),
    warnings: [
      ...(hasOwnName ? [`setting the "rename" field in sharing.${name}.resources`] : []),
      ...(picksDevices ? [`customizing the "devices" field in sharing.${name}.resources`] : []),
    ],
  };
}

function sharedResource(value: Value): WrittenResource {
  const { name, replicas, rename, devices } = value.object(SHARED);
  if (name === undefined) throw value.fail("no resource name specified");
  if (replicas === undefined) throw value.fail("no replicas specified");
  return { name, replicas, ...(rename !== undefined && { rename }), ...(devices !== undefined && { devices }) };
}

/** Throws for what Kubernetes would refuse. "gpu" is "nvidia.com/gpu". */
function resourceName(value: Value): string {
  const given = value.string();
  const name = given.startsWith(PREFIX) ? given : `${PREFIX}${given}`;
  if (name.length > MAX_NAME)
    throw value.fail(`fully-qualified resource name must be ${MAX_NAME} characters or less: ${name}`);
  if (!/^[a-z0-9]([a-z0-9-]*[a-z0-9])?(\.[a-z0-9]([a-z0-9-]*[a-z0-9])?)*$/.test(name.slice(PREFIX.length)))
    throw value.fail(
      `incorrect format for resource name '${name}': it consists of lower-case letters, digits, '-' and '.'`,
    );
  return name;
}

/** "all", a number of devices, or a list of indexes and UUIDs; only the first has an effect, as in the reference. */
function chosenDevices(value: Value): unknown {
  if (!value.isList) {
    const given = value.string();
    if (given !== "all" && !/^[1-9]\d*$/.test(given))
      throw value.fail(`devices set as '${given}' but the only valid string input is 'all'`);
    return given;
  }
  const hex = (digits: number): string => `[0-9a-fA-F]{${digits}}`;
  const uuid = `${hex(8)}-${hex(4)}-${hex(4)}-${hex(4)}-${hex(12)}`;
  const known = new RegExp(String.raw`^(\d+(:\d+)?|GPU-${uuid}|MIG-${uuid}|MIG-GPU-${uuid}/\d+/\d+)$`);
  return value.list((item) => {
    const given = item.string();
    if (!known.test(given)) throw item.fail(`unsupported type for device in devices list: ${given}`);
    return given;
  });
}
