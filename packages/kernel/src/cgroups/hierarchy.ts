/** Which cgroup hierarchies this machine has, and where a cgroup's directories are in them (cgroups(7)). */
import { existsSync, readFileSync, readdirSync } from "node:fs";
import { join } from "node:path";
import { mountsOf, type MountInfo } from "../mountinfo.ts";

export interface V1Hierarchy {
  /** Where it is mounted, as in "/sys/fs/cgroup/cpu,cpuacct". */
  readonly mountpoint: string;
  /** "cpu", "memory" …; a named hierarchy has its name as "name=systemd". */
  readonly controllers: readonly string[];
}

export interface CgroupHierarchies {
  /** "v1": no cgroup2 mount; "hybrid": v1 controllers and a cgroup2 mount beside them; "v2": cgroup2 only. */
  readonly mode: "v1" | "v2" | "hybrid";
  readonly v1: readonly V1Hierarchy[];
  /** The cgroup2 mount and the controllers in its root. */
  readonly unified?: { readonly mountpoint: string; readonly controllers: readonly string[] } | undefined;
  /** Whether swap is accounted (v1: memory.memsw.*; v2: memory.swap.max in a non-root cgroup). */
  readonly swap: boolean;
  /** Files of a v2 cgroup that may be given to who manages it (/sys/kernel/cgroup/delegate, 4.15). */
  readonly delegate?: readonly string[] | undefined;
  /** "blkio.bfq.weight" / "io.bfq.weight" where the BFQ scheduler is built in. */
  readonly bfq: boolean;
}

const V1_CONTROLLERS = new Set([
  "cpu",
  "cpuacct",
  "cpuset",
  "memory",
  "devices",
  "freezer",
  "blkio",
  "pids",
  "hugetlb",
  "net_cls",
  "net_prio",
  "perf_event",
  "rdma",
  "misc",
]);

/** Of the hierarchies in a text as /proc/self/mountinfo's; reads their roots. */
export function probeCgroups(mountInfo = readFileSync("/proc/self/mountinfo", "utf8")): CgroupHierarchies {
  const mounts = mountsOf(mountInfo, "cgroup", "cgroup2");
  const v1 = v1Hierarchies(mounts);
  const unified = mounts.find((mount) => mount.fstype === "cgroup2");
  const controllers = unified === undefined ? [] : rootControllers(unified.target);
  const memory = v1.find((hierarchy) => hierarchy.controllers.includes("memory"))?.mountpoint;
  const blkio = v1.find((hierarchy) => hierarchy.controllers.includes("blkio"))?.mountpoint;
  const bfq = blkio !== undefined ? v1Bfq(blkio) : unified === undefined ? false : unifiedBfq(unified.target);
  return {
    mode: unified === undefined ? "v1" : v1.length === 0 ? "v2" : "hybrid",
    v1,
    unified: unified === undefined ? undefined : { mountpoint: unified.target, controllers },
    swap: memory === undefined ? swapAccounted() : existsSync(join(memory, "memory.memsw.limit_in_bytes")),
    bfq,
    delegate: unified === undefined ? undefined : delegatedFiles(),
  };
}

export function v1Hierarchies(mounts: readonly MountInfo[]): V1Hierarchy[] {
  const found = new Map<string, V1Hierarchy>();
  for (const mount of mounts) {
    if (mount.fstype !== "cgroup") continue;
    const controllers = mount.superOptions.filter((option) => V1_CONTROLLERS.has(option) || option.startsWith("name="));
    // A hierarchy that is mounted twice counts once: the first mount is the one systemd and distributions agree on.
    if (controllers.length > 0 && !found.has(controllers.join()))
      found.set(controllers.join(), { mountpoint: mount.target, controllers });
  }
  return [...found.values()];
}

const DELEGATE = "/sys/kernel/cgroup/delegate";
/** Of kernels that do not list them. */
const DELEGATED = "cgroup.procs\ncgroup.subtree_control\ncgroup.threads\n";

function delegatedFiles(): string[] {
  const text = existsSync(DELEGATE) ? readFileSync(DELEGATE, "utf8") : DELEGATED;
  return text.split("\n").filter((name) => name !== "");
}

function rootControllers(mountpoint: string): string[] {
  return readFileSync(join(mountpoint, "cgroup.controllers"), "utf8")
    .split(/\s+/)
    .filter((name) => name !== "");
}

/** v2 shows memory.swap.* only below the root; /proc/swaps and the boot parameter decide it before there is such a cgroup. */
function swapAccounted(): boolean {
  return !/\bswapaccount=0\b/.test(readFileSync("/proc/cmdline", "utf8"));
}

/** Linux 5.3 and later have no weight in the root, but what it has done. */
function v1Bfq(mountpoint: string): boolean {
  return ["blkio.bfq.weight", "blkio.bfq.io_service_bytes"].some((name) => existsSync(join(mountpoint, name)));
}

/** v2 shows weights only below the root. */
function unifiedBfq(mountpoint: string): boolean {
  return readdirSync(mountpoint, { withFileTypes: true }).some(
    (entry) => entry.isDirectory() && existsSync(join(mountpoint, entry.name, "io.bfq.weight")),
  );
}

/** A cgroup's directories: v1 by hierarchy, and the cgroup2 one. `path` is absolute, from the hierarchies' roots. */
export interface CgroupDirectories {
  readonly v1: readonly { readonly hierarchy: V1Hierarchy; readonly directory: string }[];
  readonly unified?: string | undefined;
}

/** Throws Error where the path is not absolute or climbs. */
export function cgroupDirectories(path: string, cgroups: CgroupHierarchies): CgroupDirectories {
  const clean = cleanCgroupPath(path);
  return {
    v1: cgroups.v1.map((hierarchy) => ({ hierarchy, directory: join(hierarchy.mountpoint, clean) })),
    unified: cgroups.unified === undefined ? undefined : join(cgroups.unified.mountpoint, clean),
  };
}

/** The directory of one v1 controller, or undefined where it is not mounted. */
export function v1Directory(directories: CgroupDirectories, controller: string): string | undefined {
  return directories.v1.find(({ hierarchy }) => hierarchy.controllers.includes(controller))?.directory;
}

/**
 * "/a/b" for what a configuration may say ("a/b", "/a//b/"); a relative path is taken from the root. The root itself and
 * ".." are errors: no container may own the machine's cgroup.
 */
export function cleanCgroupPath(path: string): string {
  const parts = path.split("/").filter((part) => part !== "" && part !== ".");
  if (parts.length === 0 || parts.includes(".."))
    throw new Error(`cgroup path ${JSON.stringify(path)} must name a cgroup below the root, without ".."`);
  return `/${parts.join("/")}`;
}
