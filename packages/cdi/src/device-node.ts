/** A device node as the container gets it: what the specification leaves open is what the host's node is. */
import { lstat } from "node:fs/promises";
import type { oci } from "@berth/spec";
import type { DeviceNode } from "./types.ts";

export interface HostDevice {
  readonly type: "b" | "c" | "p";
  readonly major: number;
  readonly minor: number;
  readonly fileMode: number;
}

/** What the host has at a path, links not followed. Throws when there is nothing, or no device. */
export type HostDevices = (path: string) => Promise<HostDevice>;

export const hostDevice: HostDevices = async (path) => {
  const stats = await lstat(path);
  const type = stats.isBlockDevice() ? "b" : stats.isCharacterDevice() ? "c" : stats.isFIFO() ? "p" : undefined;
  if (type === undefined) throw new Error(`${path} is not a device node`);
  return { type, ...deviceNumber(stats.rdev), fileMode: stats.mode & 0o7777 };
};

/** glibc's gnu_dev_major and gnu_dev_minor, for numbers up to 32 bits. */
export function deviceNumber(rdev: number): { readonly major: number; readonly minor: number } {
  return { major: (rdev >>> 8) & 0xfff, minor: (rdev & 0xff) | ((rdev >>> 12) & 0xfff00) };
}

/**
 * A node that says its own type and major number stands as it is, even where the host has none; its mode is the host's when
 * it says none. Throws Error naming the host's path.
 */
export async function ociDevice(node: DeviceNode, host: HostDevices): Promise<oci.LinuxDevice> {
  const { path, hostPath, type = "", major = 0, minor = 0, uid, gid } = node;
  const source = hostPath || path;
  const complete = type !== "" && (major !== 0 || type === "p");
  const owner = { ...(uid !== undefined && { uid }), ...(gid !== undefined && { gid }) };
  const found = await host(source).catch((error: Error) => {
    if (complete) return undefined;
    throw new Error(`failed to stat CDI host device ${JSON.stringify(source)}: ${error.message}`, { cause: error });
  });
  const fileMode = node.fileMode ?? found?.fileMode;
  const mode = { ...(fileMode !== undefined && { fileMode }) };
  if (complete || found === undefined)
    return { path, type: type as oci.LinuxDevice["type"], major, minor, ...mode, ...owner };
  if (type !== "" && type !== found.type)
    throw new Error(
      `CDI device (${JSON.stringify(path)}, ${JSON.stringify(source)}), host type mismatch (${type}, ${found.type})`,
    );
  const numbers = found.type === "p" || major !== 0 ? { major, minor } : { major: found.major, minor: found.minor };
  return { path, type: found.type, ...numbers, ...mode, ...owner };
}
