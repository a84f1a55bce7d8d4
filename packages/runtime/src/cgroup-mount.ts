/** The cgroup mount (normally /sys/fs/cgroup): cgroup2 itself, or on v1 and hybrid hosts a tmpfs with a mount by hierarchy. */
import { basename, join } from "node:path";
import { cgroupDirectories, MOUNT_ATTR, MS, NO_SLOT, type HostFacts, type MountOptions } from "@berth/kernel";
import type { PlanBuilder } from "./builder.ts";
import type { ContainerContext } from "./context.ts";
import { CREATE } from "./paths.ts";

/** The container's own directory of one hierarchy, bound: a fifth of what mounting the hierarchy anew costs. */
interface PreparedHierarchy {
  readonly name: string;
  readonly controllers: readonly string[];
  readonly slot: number;
}

/** "v2": the one hierarchy is mounted inside. */
export type PreparedCgroups = readonly PreparedHierarchy[] | "v2";

/**
 * Orders of the stage. A bind of the container's own directory is all that it may see of a hierarchy, with a cgroup
 * namespace (whose root is that directory) and without one.
 */
export function prepareCgroups(
  plan: PlanBuilder,
  options: MountOptions,
  because: string,
  host: HostFacts,
  cgroup: ContainerContext["cgroup"],
): PreparedCgroups {
  if (host.cgroups.mode === "v2") return "v2";
  const own = cgroupDirectories(cgroup.path, host.cgroups);
  const v1 = [...own.v1, ...(cgroup.shown?.v1 ?? [])];
  const unified = own.unified ?? cgroup.shown?.unified;
  const directories = v1.map(({ hierarchy, directory }) => ({
    name: basename(hierarchy.mountpoint),
    controllers: hierarchy.controllers,
    directory,
  }));
  if (unified !== undefined) directories.push({ name: "unified", controllers: [], directory: unified });
  const set = options.set | options.recursiveSet;
  const clear = (set & MOUNT_ATTR.ATIME) === 0n ? 0n : MOUNT_ATTR.ATIME;
  return directories.map(({ name, controllers, directory }) => {
    const slot = plan.slot(because);
    plan.add("open_tree", { slot, path: directory, recursive: 0 }, because);
    plan.add("mount_attr", { slot, set, clear, propagation: MS.PRIVATE, recursive: 0, usernsSlot: NO_SLOT }, because);
    return { name, controllers, slot };
  });
}

const BASE_ATTRS = MOUNT_ATTR.NOSUID | MOUNT_ATTR.NODEV | MOUNT_ATTR.NOEXEC;

/** Orders inside. */
export function mountCgroups(
  plan: PlanBuilder,
  hierarchies: PreparedCgroups,
  target: string,
  options: MountOptions,
  root: number,
  scratch: number,
  because: string,
): void {
  const attrs = options.set | options.recursiveSet;
  const attach = (slot: number, path: string) =>
    plan.add("move_mount", { slot, root, target: path, create: CREATE.directory, strict: 0 }, because);
  if (hierarchies === "v2") {
    plan.add(
      "fs_mount",
      { slot: scratch, fstype: "cgroup2", source: "cgroup", options: [], attrs, fdKeys: [], fdSlots: [] },
      because,
    );
    return attach(scratch, target);
  }
  plan.add(
    "fs_mount",
    {
      slot: scratch,
      fstype: "tmpfs",
      source: "tmpfs",
      options: ["mode=755"],
      attrs: (attrs | BASE_ATTRS) & ~MOUNT_ATTR.RDONLY,
      fdKeys: [],
      fdSlots: [],
    },
    because,
  );
  attach(scratch, target);
  for (const { name, controllers, slot } of hierarchies) {
    attach(slot, join(target, name));
    plan.add("close", { slot }, because);
    for (const link of linksTo(name, controllers))
      plan.add("symlink", { root, path: join(target, link), target: name }, because);
  }
  if ((attrs & MOUNT_ATTR.RDONLY) !== 0n) {
    plan.add(
      "mount_attr",
      { slot: scratch, set: MOUNT_ATTR.RDONLY, clear: 0n, propagation: 0n, recursive: 0, usernsSlot: NO_SLOT },
      because,
    );
  }
}

/** "cpu,cpuacct" is also found as "cpu" and as "cpuacct". */
function linksTo(name: string, controllers: readonly string[]): string[] {
  return controllers.length < 2
    ? []
    : controllers.filter((controller) => controller !== name && !controller.startsWith("name="));
}
