/** Device nodes: the specification's default ones, those of the configuration, ptmx, and the links that programs expect. */
import { MS, NO_SLOT, S } from "@berth/kernel";
import type { oci } from "@berth/spec";
import type { PlanBuilder } from "./builder.ts";
import { PlanError } from "./context.ts";
import { cleanPath, CREATE } from "./paths.ts";

/** config-linux.md, "Default Devices"; /dev/console and /dev/ptmx are made differently. */
const DEFAULTS: readonly oci.LinuxDevice[] = [
  { path: "/dev/null", type: "c", major: 1, minor: 3 },
  { path: "/dev/zero", type: "c", major: 1, minor: 5 },
  { path: "/dev/full", type: "c", major: 1, minor: 7 },
  { path: "/dev/random", type: "c", major: 1, minor: 8 },
  { path: "/dev/urandom", type: "c", major: 1, minor: 9 },
  { path: "/dev/tty", type: "c", major: 5, minor: 0 },
];
const DEFAULT_MODE = 0o666;
const TYPES = { c: S.IFCHR, u: S.IFCHR, b: S.IFBLK, p: S.IFIFO } as const;

const LINKS: readonly (readonly [path: string, target: string])[] = [
  ["/dev/ptmx", "pts/ptmx"],
  ["/dev/fd", "/proc/self/fd"],
  ["/dev/stdin", "/proc/self/fd/0"],
  ["/dev/stdout", "/proc/self/fd/1"],
  ["/dev/stderr", "/proc/self/fd/2"],
  ["/dev/core", "/proc/kcore"],
];

export interface PreparedDevice {
  readonly device: oci.LinuxDevice;
  readonly path: string;
  readonly because: string;
  /** The host's node, cloned in the stage, where a user namespace forbids mknod. */
  readonly slot: number | undefined;
}

/** Orders of the stage. `inUserns`: nodes are bound from the host's /dev rather than made. Throws PlanError. */
export function prepareDevices(plan: PlanBuilder, spec: oci.Spec, inUserns: boolean): PreparedDevice[] {
  const configured = (spec.linux?.devices ?? [])
    .map((device, index) => ({ device, path: cleanPath(device.path), because: `linux.devices[${index}]` }))
    // Always the link to the container's own devpts: another's ptmx would open terminals of the host's.
    .filter(({ path }) => path !== "/dev/ptmx");
  const taken = new Set(configured.map(({ path }) => path));
  const defaults = DEFAULTS.filter(({ path }) => !taken.has(path)).map((device) => ({
    device,
    path: device.path,
    because: "linux.devices (default)",
  }));
  return [...defaults, ...configured].map((one) => {
    if (TYPES[one.device.type] === undefined)
      throw new PlanError(`${one.because}.type`, `${JSON.stringify(one.device.type)} is none of c, u, b, p`);
    return { ...one, slot: inUserns && one.device.type !== "p" ? cloneNode(plan, one.device, one.because) : undefined };
  });
}

function cloneNode(plan: PlanBuilder, device: oci.LinuxDevice, because: string): number {
  const slot = plan.slot(because);
  plan.add("open_tree", { slot, path: cleanPath(device.path), recursive: 0 }, because);
  if (device.type !== "b")
    plan.add("check_device", { slot, major: device.major ?? 0, minor: device.minor ?? 0 }, because);
  plan.add(
    "mount_attr",
    { slot, set: 0n, clear: 0n, propagation: MS.PRIVATE, recursive: 0, usernsSlot: NO_SLOT },
    because,
  );
  return slot;
}

/** Orders inside. */
export function makeDevices(plan: PlanBuilder, devices: readonly PreparedDevice[], root: number): void {
  for (const { device, path, because, slot } of devices) {
    if (slot !== undefined) {
      plan.add("move_mount", { slot, root, target: path, create: CREATE.file, strict: 0 }, because);
      plan.add("close", { slot }, because);
      continue;
    }
    const { type, major = 0, minor = 0, fileMode = DEFAULT_MODE, uid = 0, gid = 0 } = device;
    plan.add("mkdev", { root, path, mode: TYPES[type] | (fileMode & 0o7777), major, minor, uid, gid }, because);
  }
  for (const [path, target] of LINKS) plan.add("symlink", { root, path, target }, "linux.devices (default)");
}
