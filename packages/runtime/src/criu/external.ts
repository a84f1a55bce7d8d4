/** What of a container's mounts comes from outside: CRIU notes only its name, and a restore says what to bind there. */
import { basename, join } from "node:path";
import { cgroupDirectories, parseMountOptions, type HostFacts, type MountInfo } from "@berth/kernel";
import type { oci } from "@berth/spec";
import { namespacesOf } from "../namespaces.ts";
import { cleanPath } from "../paths.ts";

export interface ExternalMount {
  /** As the configuration has it: links of the image in it are not followed. */
  readonly destination: string;
  /** A path of the host. */
  readonly source: string;
}

const NULL_DEVICE = "/dev/null";

export function isBind({ type, options = [] }: oci.Mount): boolean {
  return type === "bind" || type === "rbind" || parseMountOptions(options).bind !== "none";
}

export function externalMounts(spec: oci.Spec, host: HostFacts, cgroupPath: string): ExternalMount[] {
  const { all } = namespacesOf(spec);
  const found = (spec.mounts ?? []).flatMap((mount) => {
    const destination = cleanPath(mount.destination);
    if (isBind(mount)) return [{ destination, source: mount.source ?? "" }];
    if (mount.type === "cgroup") return cgroupBinds(destination, host, cgroupPath);
    // With the host's network in a user namespace it is the host's, bound (mounts.ts).
    if (mount.type === "sysfs" && all.has("user") && !all.has("network")) return [{ destination, source: "/sys" }];
    return [];
  });
  return [...found, ...devices(spec)];
}

/** Beside v1 controllers each hierarchy is a bind; cgroup2 alone is a mount of the container's own. */
function cgroupBinds(destination: string, { cgroups }: HostFacts, cgroupPath: string): ExternalMount[] {
  if (cgroups.mode === "v2") return [];
  const { v1, unified } = cgroupDirectories(cgroupPath, cgroups);
  return [
    ...v1.map(({ hierarchy, directory }) => ({
      destination: join(destination, basename(hierarchy.mountpoint)),
      source: directory,
    })),
    ...(unified === undefined ? [] : [{ destination: join(destination, "unified"), source: unified }]),
  ];
}

const DEFAULT_DEVICES = ["null", "zero", "full", "random", "urandom", "tty"].map((name) => `/dev/${name}`);

/** Bound from the host where a user namespace forbids making them; names of what is no mount point do no harm. */
function devices(spec: oci.Spec): ExternalMount[] {
  const paths = new Set([...DEFAULT_DEVICES, ...(spec.linux?.devices ?? []).map(({ path }) => cleanPath(path))]);
  return [...paths].map((path) => ({ destination: path, source: path }));
}

/** Masked files are the null device; directories are covered by a tmpfs of their own, which CRIU restores. */
export function maskedFiles(spec: oci.Spec, mounts: readonly MountInfo[]): string[] {
  const masked = (spec.linux?.maskedPaths ?? []).map(cleanPath);
  return masked.filter((path) => mounts.findLast(({ target }) => target === path)?.root.endsWith("/null") ?? false);
}

/** What a restore binds over masked files, under the name that `maskedFiles` were given. */
export const MASK: ExternalMount = { destination: NULL_DEVICE, source: NULL_DEVICE };
