/** What of the command line's world changes for who is not the machine's root: which cgroups, and where the state is. */
import { accessSync, constants, existsSync, readFileSync } from "node:fs";
import { dirname, join } from "node:path";
import {
  cgroupDirectories,
  type CgroupDirectories,
  type CgroupHierarchies,
  type HostFacts,
  type V1Hierarchy,
} from "@berth/kernel";
import type { oci } from "@berth/spec";
import type { ContainerRecord } from "../state/record.ts";
import { CommandError } from "./failure.ts";
import type { Flags } from "./flags.ts";

const BOOLEANS = new Map([
  ...["1", "t", "T", "true", "TRUE", "True"].map((text) => [text, true] as const),
  ...["0", "f", "F", "false", "FALSE", "False"].map((text) => [text, false] as const),
]);

/** --rootless: whether cgroups that may not be written are done without. "auto": for everybody but the machine's root. */
export function ignoresCgroupErrors(global: Flags, host: HostFacts): boolean {
  const text = global.text("rootless") || "auto";
  if (text === "auto") return host.identity !== undefined;
  const value = BOOLEANS.get(text);
  if (value === undefined)
    throw new CommandError(`invalid value for --rootless: ${JSON.stringify(text)}: use true, false or auto`);
  return value;
}

/** The machine with those cgroup hierarchies alone in which the container's cgroup can be made. Throws CommandError. */
export function withWritableCgroups(host: HostFacts, path: string, resources: oci.LinuxResources = {}): HostFacts {
  const { v1, unified } = cgroupDirectories(path, host.cgroups);
  const writable = v1.filter(({ directory }) => mayMake(directory)).map(({ hierarchy }) => hierarchy);
  const left = { ...host, cgroups: only(host.cgroups, writable, unified !== undefined && mayMake(unified)) };
  checkLimits(host, left, resources);
  return left;
}

/** A limit that would be left out because its hierarchy is: throws CommandError. */
export function checkLimits(machine: HostFacts, left: HostFacts, resources: oci.LinuxResources): void {
  const has = ({ cgroups }: HostFacts, name: string) =>
    cgroups.v1.some(({ controllers }) => controllers.includes(name));
  for (const controller of limited(resources)) {
    const isThere = has(machine, controller)
      ? has(left, controller)
      : (left.cgroups.unified === undefined) === (machine.cgroups.unified === undefined);
    if (!isThere) throw new CommandError(`cannot set ${controller} limit: container could not join or create cgroup`);
  }
}

/** Where this process, and with it the container, is in the hierarchies that are left out. */
export function callersCgroups(machine: HostFacts, left: HostFacts): CgroupDirectories {
  const own = ownCgroups();
  const v1 = machine.cgroups.v1
    .filter((hierarchy) => !left.cgroups.v1.includes(hierarchy))
    .flatMap((hierarchy) => {
      const path = own.find(({ controllers }) =>
        hierarchy.controllers.some((name) => controllers.includes(name)),
      )?.path;
      return path === undefined ? [] : [{ hierarchy, directory: join(hierarchy.mountpoint, path) }];
    });
  const { unified } = machine.cgroups;
  const path = own.find(({ number }) => number === "0")?.path;
  return unified === undefined || left.cgroups.unified !== undefined || path === undefined
    ? { v1 }
    : { v1, unified: join(unified.mountpoint, path) };
}

/** /proc/self/cgroup (cgroups(7)); cgroup v2 is number "0". */
function ownCgroups(): { number: string; controllers: readonly string[]; path: string }[] {
  const lines = readFileSync("/proc/self/cgroup", "utf8").trimEnd().split("\n");
  return lines.map((line) => {
    const [number = "", controllers = "", ...path] = line.split(":");
    return { number, controllers: controllers.split(","), path: path.join(":") };
  });
}

/** The machine with the hierarchies that this container has a cgroup in. */
export function cgroupsOf({ cgroup_paths: paths }: ContainerRecord, host: HostFacts): HostFacts {
  const v1 = host.cgroups.v1.filter(({ controllers }) => controllers.some((name) => Object.hasOwn(paths, name)));
  return { ...host, cgroups: only(host.cgroups, v1, Object.hasOwn(paths, "")) };
}

function only(cgroups: CgroupHierarchies, v1: readonly V1Hierarchy[], hasUnified: boolean): CgroupHierarchies {
  return { ...cgroups, v1, unified: hasUnified ? cgroups.unified : undefined };
}

/** The nearest directory that is there takes new ones from this process, and processes too (cgroups(7), "Delegation"). */
function mayMake(directory: string): boolean {
  let path = directory;
  while (!existsSync(path)) path = dirname(path);
  try {
    accessSync(path, constants.W_OK | constants.X_OK);
    accessSync(join(path, "cgroup.procs"), constants.W_OK);
    return true;
  } catch (error) {
    const { code } = error as NodeJS.ErrnoException;
    if (code === "EACCES" || code === "EPERM" || code === "EROFS" || code === "ENOENT") return false;
    throw error;
  }
}

/** Controllers that a configuration asks limits of; device rules are left out, as nobody but root can have them. */
function limited({ cpu, memory, pids, blockIO, hugepageLimits, network, rdma }: oci.LinuxResources): string[] {
  const { cpus, mems, ...time } = cpu ?? {};
  const asked = (value: object | undefined) => Object.values(value ?? {}).some((one) => one !== undefined && one !== 0);
  return [
    ...(asked(time) ? ["cpu"] : []),
    ...(cpus || mems ? ["cpuset"] : []),
    ...(asked(memory) ? ["memory"] : []),
    ...(pids?.limit === undefined ? [] : ["pids"]),
    ...(asked(blockIO) ? ["blkio"] : []),
    ...((hugepageLimits ?? []).length > 0 ? ["hugetlb"] : []),
    ...(asked(network) ? ["net_cls"] : []),
    ...(asked(rdma) ? ["rdma"] : []),
  ];
}

/**
 * A container's cgroup where the configuration names none: below this process's own, and on cgroup v2 beside it, for one that has
 * processes cannot pass its controllers on.
 */
export function defaultCgroup(id: string, { mode }: CgroupHierarchies): string {
  const paths = ownCgroups();
  if (mode === "v2") return join(dirname(paths.find(({ number }) => number === "0")?.path ?? "/"), id);
  const own = new Set(paths.filter(({ number }) => number !== "0").map(({ path }) => path));
  const [first = "/"] = own;
  return own.size === 1 ? join(first, id) : `/${id}`;
}

/** Whether the state is the user's own: for everybody but root, also one whom a user namespace makes root without that name. */
export function ownsRuntimeDirectory(): boolean {
  return process.geteuid?.() !== 0 || (!isMachineRoot() && process.env.USER !== "root");
}

/** Not the root of a user namespace, whose files on the host are an ordinary user's. */
export function isMachineRoot(): boolean {
  return process.geteuid?.() === 0 && /^\s*0\s+0\s+4294967295\s*$/.test(readFileSync("/proc/self/uid_map", "utf8"));
}
