/** The device plugin's configuration: which CDI kinds become which resources of the node. */
import { type Decode, type Fields, StrictDocument, type Value } from "@berth/cdi";

/** How the kubelet is told what a container gets: in its own field (Kubernetes 1.28), or as an annotation (older ones). */
export const DEVICE_LIST_STRATEGIES = ["cdi-cri", "cdi-annotations"] as const;
export type DeviceListStrategy = (typeof DEVICE_LIST_STRATEGIES)[number];

export const ALLOCATION_POLICIES = ["distributed", "packed"] as const;
/** Of a shared device's replicas: from the device that is used least, or most. */
export type AllocationPolicy = (typeof ALLOCATION_POLICIES)[number];

export interface ResourceConfig {
  /** The extended resource, as pods ask for it: "mock.com/gpu". */
  readonly name: string;
  /** The CDI kind whose devices it has. */
  readonly kind: string;
  /** Patterns of device names (`*` and `?`); one that matches is enough. */
  readonly devices: readonly string[];
  /** How many containers may share each device; 1: it is not shared. */
  readonly replicas: number;
  /** A container that asks for several shares is refused: shares of a device do not add up. */
  readonly failRequestsGreaterThanOne: boolean;
  readonly allocationPolicy: AllocationPolicy;
  readonly deviceListStrategy: readonly DeviceListStrategy[];
}

export interface PluginConfig {
  readonly version: string;
  readonly resources: readonly ResourceConfig[];
}

/** Kubernetes's limit of a qualified name's part behind the "/". */
const MAX_NAME = 63;
const MAX_REPLICAS = 1000;

type Written<T> = { -readonly [K in keyof T]?: T[K] };

const text: Decode<string> = (value) => value.string();
const RESOURCE: Fields<Written<ResourceConfig>> = {
  name: resourceName,
  kind: text,
  devices: (value) => value.list(text),
  replicas: (value) => value.integer(1, MAX_REPLICAS),
  failRequestsGreaterThanOne: (value) => value.boolean(),
  allocationPolicy: (value) => oneOf(value, value.string(), ALLOCATION_POLICIES),
  deviceListStrategy: (value) => value.list((item) => oneOf(item, item.string(), DEVICE_LIST_STRATEGIES)),
};
const CONFIG: Fields<Written<PluginConfig>> = {
  version: (value) => oneOf(value, value.string(), ["v1"] as const),
  resources: (value) => value.list(resource),
};

/** Throws CdiError naming file, line, column and field. */
export function parseConfig(content: string, file?: string): PluginConfig {
  const root = StrictDocument.parse(content, file).root();
  const { version, resources } = root.object(CONFIG);
  if (version === undefined) throw root.fail('"version" is missing: write "version: v1"');
  if (resources === undefined || resources.length === 0) throw root.fail('"resources" is missing: name at least one');
  const twice = resources.find(({ name }, index) => resources.findIndex((other) => other.name === name) < index);
  if (twice) throw root.fail(`resources: ${JSON.stringify(twice.name)} is there twice`);
  return { version, resources };
}

function resource(value: Value): ResourceConfig {
  const given = value.object(RESOURCE);
  if (given.name === undefined)
    throw value.fail('"name" is missing: the resource that pods ask for, as in vendor.com/gpu');
  return {
    name: given.name,
    kind: given.kind ?? given.name,
    devices: given.devices ?? ["*"],
    replicas: given.replicas ?? 1,
    failRequestsGreaterThanOne: given.failRequestsGreaterThanOne ?? false,
    allocationPolicy: given.allocationPolicy ?? "distributed",
    deviceListStrategy: given.deviceListStrategy ?? ["cdi-cri"],
  };
}

function resourceName(value: Value): string {
  const name = value.string();
  const [domain = "", own = "", ...more] = name.split("/");
  const good =
    /^[a-z0-9]([a-z0-9.-]*[a-z0-9])?$/.test(domain) &&
    /^[A-Za-z0-9]([A-Za-z0-9_.-]*[A-Za-z0-9])?$/.test(own) &&
    own.length <= MAX_NAME &&
    more.length === 0;
  if (!good) throw value.fail(`${JSON.stringify(name)} is not a resource's name, as in vendor.com/gpu`);
  return name;
}

function oneOf<T extends string>(value: Value, given: string, known: readonly T[]): T {
  const found = known.find((one) => one === given);
  if (found === undefined) throw value.fail(`${JSON.stringify(given)} is none of ${known.join(", ")}`);
  return found;
}
