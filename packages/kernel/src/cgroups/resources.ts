/** OCI resources as orders: which controller's file decides what, and in which hierarchy (v1, v2 or both). */
import { dirname, join } from "node:path";
import type { oci } from "@berth/spec";
import { O } from "../flags.ts";
import type { HostFacts } from "../host.ts";
import type { Order, Plan } from "../orders/plan.ts";
import { cpuV1, cpuV2 } from "./controllers/cpu.ts";
import { cpuset, seedCpuset } from "./controllers/cpuset.ts";
import { devicesV1, devicesV2 } from "./controllers/devices.ts";
import { hugetlb } from "./controllers/hugetlb.ts";
import { blkioV1, ioV2 } from "./controllers/io.ts";
import { memoryV1, memoryV2 } from "./controllers/memory.ts";
import { networkV1 } from "./controllers/network.ts";
import { pids } from "./controllers/pids.ts";
import { rdma } from "./controllers/rdma.ts";
import { unified } from "./controllers/unified.ts";
import { cgroupDirectories, v1Directory, type CgroupDirectories } from "./hierarchy.ts";
import { merge, NOTHING, ResourceError, unavailable, writeOrder, type Settings } from "./orders.ts";

/** Slot that `cgroupCreation` opens the cgroup2 directory in, unless told otherwise: the last one, out of everybody's way. */
export const CGROUP_SLOT = 127;

export interface CgroupCreation {
  readonly orders: readonly Order[];
  readonly warnings: readonly string[];
  /** For the `clone` order's cgroupSlot; undefined where there is no cgroup2 mount (all is joined by then). */
  readonly slot: number | undefined;
  /** What the container's process writes as the last thing before it parks: a file that the stage opens. */
  readonly late: { readonly file: string; readonly value: string; readonly because: string } | undefined;
}

/**
 * Makes a cgroup in every hierarchy with its limits, and puts this process into the v1 ones; the next process joins the v2
 * one by being cloned into it. Orders for the stage of a plan, while it still sees the host's /sys/fs/cgroup.
 * Throws ResourceError.
 */
export function cgroupCreation(
  path: string,
  host: HostFacts,
  resources: oci.LinuxResources = {},
  slot: number = CGROUP_SLOT,
): CgroupCreation {
  const directories = cgroupDirectories(path, host.cgroups);
  const late = lateLimit(resources, directories);
  const { pids: _late, ...early } = resources;
  const limits = resourceSettings(late === undefined ? resources : early, directories, host);
  const join = joinOrders(directories, host, slot);
  return {
    orders: [...makeOrders(directories, host, resources), ...limits.orders, ...join.orders],
    warnings: limits.warnings,
    slot: join.slot,
    late,
  };
}

/** Puts this process (v1), and the next cloned one (v2), into a cgroup that exists. */
export function cgroupJoin(
  path: string,
  host: HostFacts,
  slot: number = CGROUP_SLOT,
): { readonly orders: readonly Order[]; readonly slot: number | undefined } {
  return joinOrders(cgroupDirectories(path, host.cgroups), host, slot);
}

/** New limits for a cgroup that exists. Throws ResourceError. */
export function updateResources(path: string, resources: oci.LinuxResources, host: HostFacts): Plan {
  return { orders: resourceSettings(resources, cgroupDirectories(path, host.cgroups), host).orders };
}

/** Removes a cgroup and those below it; absent ones are success, processes inside are EBUSY. */
export function cgroupRemoval(path: string, host: HostFacts): Plan {
  const { v1, unified: directory } = cgroupDirectories(path, host.cgroups);
  const all = [...v1.map((one) => one.directory), ...(directory === undefined ? [] : [directory])];
  return {
    orders: all.map((one): Order => ({
      order: "rmdir",
      args: { path: one, children: 1 },
      because: "linux.cgroupsPath",
    })),
  };
}

/** The counter that grows when the kernel kills a process of the cgroup for memory; undefined without a memory controller. */
export function oomCounter(path: string, host: HostFacts): { readonly file: string; readonly key: string } | undefined {
  const directories = cgroupDirectories(path, host.cgroups);
  const v1 = v1Directory(directories, "memory");
  if (v1 !== undefined) return { file: join(v1, "memory.oom_control"), key: "oom_kill" };
  if (directories.unified === undefined || !host.cgroups.unified?.controllers.includes("memory")) return undefined;
  return { file: join(directories.unified, "memory.events"), key: "oom_kill" };
}

/** v1 is joined by the process that clones the container's: a limit of one process comes when there is but one. */
function lateLimit({ pids: asked }: oci.LinuxResources, directories: CgroupDirectories): CgroupCreation["late"] {
  const limit = asked?.limit;
  const directory = v1Directory(directories, "pids");
  if (limit === undefined || limit < 0 || limit > 1 || directory === undefined) return undefined;
  return { file: join(directory, "pids.max"), value: "1", because: "linux.resources.pids.limit" };
}

function makeOrders(directories: CgroupDirectories, host: HostFacts, resources: oci.LinuxResources): Order[] {
  const orders: Order[] = [];
  const make = (path: string) =>
    orders.push({ order: "mkdir", args: { path, mode: 0o755, existOk: 1, parents: 1 }, because: "linux.cgroupsPath" });
  for (const { hierarchy, directory } of directories.v1) {
    make(directory);
    if (hierarchy.controllers.includes("cpuset")) orders.push(...seedCpuset(directory, hierarchy.mountpoint));
  }
  if (directories.unified !== undefined && host.cgroups.unified !== undefined) {
    make(directories.unified);
    orders.push(
      ...enableOrders(directories.unified, host.cgroups.unified.mountpoint, wantedControllers(host, resources)),
    );
  }
  return orders;
}

/**
 * In v2 a cgroup has the controllers that its parent passes on (cgroup.subtree_control), from the root down. Passing on
 * what is passed on already is allowed; a parent with processes of its own answers EBUSY.
 */
function enableOrders(directory: string, mountpoint: string, controllers: readonly string[]): Order[] {
  if (controllers.length === 0) return [];
  const value = controllers.map((name) => `+${name}`).join(" ");
  const chain: string[] = [];
  for (let path = dirname(directory); path.length >= mountpoint.length; path = dirname(path)) chain.unshift(path);
  return chain.map((path) => writeOrder(path, "cgroup.subtree_control", value, "linux.cgroupsPath"));
}

/** v2: all that limits something. Hybrid: only what v1 does not have and the resources ask for. */
function wantedControllers(host: HostFacts, resources: oci.LinuxResources): string[] {
  const available = host.cgroups.unified?.controllers ?? [];
  if (host.cgroups.mode === "v2") return available.filter((name) => V2_CONTROLLERS.has(name));
  return available.filter((name) => name === "hugetlb" && (resources.hugepageLimits?.length ?? 0) > 0);
}

const V2_CONTROLLERS = new Set(["cpu", "cpuset", "io", "memory", "pids", "hugetlb", "rdma", "misc"]);

function joinOrders(
  directories: CgroupDirectories,
  host: HostFacts,
  slot: number,
): { orders: Order[]; slot: number | undefined } {
  const orders = directories.v1.map(({ directory }): Order => ({
    order: "join_cgroup",
    args: { path: directory },
    because: "linux.cgroupsPath",
  }));
  if (directories.unified === undefined) return { orders, slot: undefined };
  if (!host.features.cloneIntoCgroup) {
    // Before 5.7: by moving, which costs an RCU grace period.
    orders.push(writeOrder(directories.unified, "cgroup.procs", "0", "linux.cgroupsPath"));
    return { orders, slot: undefined };
  }
  orders.push({
    order: "open",
    args: { slot, path: directories.unified, flags: BigInt(O.DIRECTORY) },
    because: "linux.cgroupsPath",
  });
  return { orders, slot };
}

/** Where each controller of this machine is: a v1 directory, the v2 one, or nowhere. */
type Place = { readonly version: "v1" | "v2"; readonly directory: string } | undefined;

function placeOf(controller: string, v2Name: string, directories: CgroupDirectories, host: HostFacts): Place {
  const v1 = v1Directory(directories, controller);
  if (v1 !== undefined) return { version: "v1", directory: v1 };
  if (directories.unified === undefined || !host.cgroups.unified?.controllers.includes(v2Name)) return undefined;
  return { version: "v2", directory: directories.unified };
}

function resourceSettings(resources: oci.LinuxResources, directories: CgroupDirectories, host: HostFacts): Settings {
  const at = (controller: string, v2Name = controller) => placeOf(controller, v2Name, directories, host);
  const { cgroups } = host;
  return merge([
    apply(
      resources.cpu && hasCpuTime(resources.cpu) ? resources.cpu : undefined,
      at("cpu"),
      "cpu",
      (cpu, { version, directory }) => (version === "v1" ? cpuV1 : cpuV2)(cpu, directory),
    ),
    apply(
      resources.cpu?.cpus || resources.cpu?.mems ? resources.cpu : undefined,
      at("cpuset"),
      "cpu.cpus",
      (cpu, { directory }) => cpuset(cpu, directory),
      "cpuset",
    ),
    apply(resources.memory, at("memory"), "memory", (memory, { version, directory }) =>
      (version === "v1" ? memoryV1 : memoryV2)(memory, directory, cgroups.swap),
    ),
    apply(resources.pids?.limit, at("pids"), "pids", (limit, { directory }) => pids(limit, directory)),
    apply(
      resources.blockIO,
      at("blkio", "io"),
      "blockIO",
      (io, { version, directory }) => (version === "v1" ? blkioV1 : ioV2)(io, directory, cgroups.bfq),
      "blkio",
    ),
    apply(
      some(resources.hugepageLimits),
      at("hugetlb"),
      "hugepageLimits",
      (limits, { version, directory }) => hugetlb(limits, directory, version),
      "hugetlb",
    ),
    apply(
      resources.rdma && Object.keys(resources.rdma).length > 0 ? resources.rdma : undefined,
      at("rdma"),
      "rdma",
      (limits, { directory }) => rdma(limits, directory),
    ),
    resources.network === undefined
      ? NOTHING
      : networkV1(resources.network, v1Directory(directories, "net_cls"), v1Directory(directories, "net_prio")),
    unifiedSettings(resources, directories, host),
    deviceSettings(some(resources.devices), directories, host),
  ]);
}

/** A resource that was asked for, in the place of its controller; a warning where there is none. */
function apply<T>(
  value: T | undefined,
  place: Place,
  field: string,
  make: (value: T, place: NonNullable<Place>) => Settings,
  controller: string = field,
): Settings {
  if (value === undefined) return NOTHING;
  return place === undefined ? unavailable(controller, `linux.resources.${field}`) : make(value, place);
}

function hasCpuTime(cpu: oci.LinuxCPU): boolean {
  return [cpu.shares, cpu.quota, cpu.period, cpu.burst, cpu.idle, cpu.realtimePeriod, cpu.realtimeRuntime].some(
    (value) => value !== undefined,
  );
}

function some<T>(list: readonly T[] | undefined): readonly T[] | undefined {
  return list !== undefined && list.length > 0 ? list : undefined;
}

function unifiedSettings(resources: oci.LinuxResources, directories: CgroupDirectories, host: HostFacts): Settings {
  if (resources.unified === undefined || Object.keys(resources.unified).length === 0) return NOTHING;
  if (directories.unified === undefined || host.cgroups.unified === undefined || host.cgroups.mode !== "v2") {
    throw new ResourceError(
      "linux.resources.unified",
      `this machine's cgroups are ${host.cgroups.mode}; unified settings need cgroup v2`,
    );
  }
  return unified(resources.unified, directories.unified, host.cgroups.unified.controllers);
}

function deviceSettings(
  rules: readonly oci.LinuxDeviceCgroup[] | undefined,
  directories: CgroupDirectories,
  host: HostFacts,
): Settings {
  if (rules === undefined) return NOTHING;
  const v1 = v1Directory(directories, "devices");
  if (v1 !== undefined) return devicesV1(rules, v1);
  // On v2 every cgroup takes a program, whichever controllers there are.
  if (directories.unified !== undefined && host.cgroups.unified !== undefined)
    return devicesV2(rules, directories.unified);
  return unavailable("devices", "linux.resources.devices");
}
