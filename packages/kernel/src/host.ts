/** What the machine and its kernel can do: probed once, then an argument of the pure functions that make plans. */
import { existsSync, mkdirSync, mkdtempSync, readFileSync, rmSync } from "node:fs";
import { release, tmpdir } from "node:os";
import { join } from "node:path";
import type { Hand } from "./bosun/hand.ts";
import { OrderError } from "./bosun/errors.ts";
import { CAP_SYS_RESOURCE, ownCapabilities, type OwnCapabilities } from "./capabilities.ts";
import { probeCgroups, type CgroupHierarchies } from "./cgroups/hierarchy.ts";
import { ownIdentity, type Identity } from "./identity.ts";
import { mountsOf } from "./mountinfo.ts";
import type { Order } from "./orders/plan.ts";
import { atLeast, parseKernelVersion } from "./version.ts";
import { ownLimits, type Limit, type RlimitName } from "./rlimits.ts";

export interface KernelFeatures {
  /** openat2(2), 5.6. */
  readonly openat2: boolean;
  /** fsopen, fsmount, open_tree, move_mount: 5.2. */
  readonly mountApi: boolean;
  /** mount_setattr(2), 5.12. */
  readonly mountSetattr: boolean;
  /** overlayfs "lowerdir+" by path, 6.7. Without it a lowerdir string goes to mount(2). */
  readonly lowerdirPlus: boolean;
  /** overlayfs "lowerdir+" by descriptor, 6.13. */
  readonly lowerdirFd: boolean;
  /** clone3 with CLONE_INTO_CGROUP, 5.7 (and a cgroup2 mount). */
  readonly cloneIntoCgroup: boolean;
  /** cgroup.kill, 5.14. */
  readonly cgroupKill: boolean;
  /** overlayfs knows "index=" (so that "index=off" may be given). */
  readonly overlayIndex: boolean;
}

export interface HostFacts {
  readonly kernel: { readonly release: string; readonly version: readonly [major: number, minor: number] };
  readonly features: KernelFeatures;
  readonly cgroups: CgroupHierarchies;
  /** Of this process, which bosun inherits. */
  readonly capabilities: OwnCapabilities;
  readonly rlimits: Partial<Readonly<Record<RlimitName, Limit>>>;
  /** Its own: without CAP_SYS_RESOURCE nothing may go below it. */
  readonly oomScoreAdj: number;
  readonly apparmor: boolean;
  readonly selinux: boolean;
  /** Who this process is; undefined: the root of the machine. */
  readonly identity?: Identity | undefined;
  /** Where resctrl is mounted (Intel RDT, resctrl.rst); undefined: nowhere. */
  readonly resctrl?: string | undefined;
  /** For a person, once: what containers here will lack, and why. */
  readonly warnings: readonly string[];
}

/** What `readHost` reads. With a `hand`, kernel features are tried rather than guessed from the version (distributions backport). */
export async function probeHost(hand?: Hand): Promise<HostFacts> {
  const host = readHost();
  return hand === undefined ? host : { ...host, features: { ...host.features, ...(await tryOverlay(hand)) } };
}

/** Reads /proc and /sys: a millisecond. */
export function readHost(): HostFacts {
  const mountInfo = readFileSync("/proc/self/mountinfo", "utf8");
  const cgroups = probeCgroups(mountInfo);
  const version = parseKernelVersion(release());
  const facts = {
    kernel: { release: release(), version },
    features: featuresOfVersion(version, cgroups, existsSync("/sys/module/overlay/parameters/index")),
    cgroups,
    capabilities: ownCapabilities(),
    rlimits: ownLimits(),
    oomScoreAdj: Number(readFileSync("/proc/self/oom_score_adj", "utf8")),
    apparmor: existsSync(APPARMOR) && readFileSync(APPARMOR, "utf8").startsWith("Y"),
    selinux: existsSync("/sys/fs/selinux/enforce"),
    resctrl: mountsOf(mountInfo, "resctrl")[0]?.target,
    identity: ownIdentity(),
  };
  return { ...facts, warnings: hostWarnings(facts) };
}

const APPARMOR = "/sys/module/apparmor/parameters/enabled";

/** What berth was written for: Ubuntu 22.04's. */
const OLDEST_KERNEL = [5, 15] as const;

export function hostWarnings({
  kernel,
  cgroups,
  capabilities,
}: Pick<HostFacts, "kernel" | "cgroups" | "capabilities">): string[] {
  const warnings: string[] = [];
  if (!atLeast(kernel.version, ...OLDEST_KERNEL))
    warnings.push(`kernel ${kernel.release} is older than ${OLDEST_KERNEL.join(".")}, the oldest that berth supports`);
  if ((capabilities.effective & CAP_SYS_RESOURCE) === 0n) {
    warnings.push(
      "no CAP_SYS_RESOURCE: OOM scores below this process's own and resource limits above its own cannot be given to containers",
    );
  }
  if (cgroups.v1.length === 0 && cgroups.unified === undefined)
    warnings.push("no cgroup hierarchy is mounted: containers have no limits and no statistics");
  if (cgroups.unified === undefined && !cgroups.v1.some(({ controllers }) => controllers.includes("devices")))
    warnings.push("no cgroup v1 devices controller and no cgroup v2: device rules are not enforced");
  if (!cgroups.swap) warnings.push("swap is not accounted: swap limits are not applied (boot with swapaccount=1)");
  return warnings;
}

export function featuresOfVersion(
  version: readonly [number, number],
  cgroups: CgroupHierarchies,
  overlayIndex: boolean,
): KernelFeatures {
  const from = (major: number, minor: number) => atLeast(version, major, minor);
  return {
    openat2: from(5, 6),
    mountApi: from(5, 2),
    mountSetattr: from(5, 12),
    lowerdirPlus: from(6, 7),
    lowerdirFd: from(6, 13),
    cloneIntoCgroup: from(5, 7) && cgroups.unified !== undefined,
    cgroupKill: from(5, 14) && cgroups.unified !== undefined,
    overlayIndex,
  };
}

/** Makes (and drops) overlay mounts of two empty directories in each way. */
async function tryOverlay(hand: Hand): Promise<Pick<KernelFeatures, "lowerdirPlus" | "lowerdirFd">> {
  const directory = mkdtempSync(join(tmpdir(), "berth-probe-"));
  try {
    const lowers = [join(directory, "one"), join(directory, "two")];
    for (const lower of lowers) mkdirSync(lower);
    const byPath: Order = {
      order: "fs_mount",
      args: {
        slot: 0,
        fstype: "overlay",
        source: "probe",
        options: lowers.map((lower) => `lowerdir+=${lower}`),
        attrs: 0n,
        fdKeys: [],
        fdSlots: [],
      },
    };
    const trees = lowers.map((path, index): Order => ({
      order: "open_tree",
      args: { slot: index + 1, path, recursive: 0 },
    }));
    const byFd: Order = {
      order: "fs_mount",
      args: {
        slot: 0,
        fstype: "overlay",
        source: "probe",
        options: [],
        attrs: 0n,
        fdKeys: lowers.map(() => "lowerdir+"),
        fdSlots: [1, 2],
      },
    };
    return { lowerdirPlus: await works(hand, [byPath]), lowerdirFd: await works(hand, [...trees, byFd]) };
  } finally {
    rmSync(directory, { recursive: true, force: true });
  }
}

/** Whether a plan succeeds; only an order's own failure counts as "no". */
async function works(hand: Hand, orders: readonly Order[]): Promise<boolean> {
  try {
    await hand.run({ orders });
    return true;
  } catch (error) {
    if (error instanceof OrderError && error.order !== undefined) return false;
    throw error;
  }
}
