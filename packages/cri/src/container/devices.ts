/** Devices: those asked for (a file, or all below a directory), and for a privileged container all of the host's. */
import { readdir, realpath, stat } from "node:fs/promises";
import { join } from "node:path";
import type { cri, oci } from "@berth/spec";
import { invalid } from "../errors.ts";
import type { RuntimeHandler } from "../handlers.ts";

export interface DeviceSettings {
  readonly devices: oci.LinuxDevice[];
  readonly rules: oci.LinuxDeviceCgroup[];
}

/** Directories of /dev that hold other file systems, or what a container has of its own. */
const HOST_DEVICES_SKIPPED = new Set(["pts", "shm", "fd", "mqueue", ".lxc", ".lxd-mounts", ".udev", "console"]);

/** `owner`: whom devices belong to in the container, where it is not the host's owner. */
export async function devicesOf(
  config: cri.ContainerConfig,
  handler: Pick<RuntimeHandler, "privilegedWithoutHostDevices" | "privilegedAllDevicesAllowed">,
  owner?: { readonly uid: number; readonly gid: number },
): Promise<DeviceSettings> {
  const privileged = config.linux?.securityContext?.privileged === true;
  if (privileged && !handler.privilegedWithoutHostDevices) {
    return {
      devices: await devicesBelow("/dev", "/dev", HOST_DEVICES_SKIPPED),
      rules: [{ allow: true, access: "rwm" }],
    };
  }
  const devices: oci.LinuxDevice[] = [];
  const everything = privileged && handler.privilegedAllDevicesAllowed;
  const rules: oci.LinuxDeviceCgroup[] = [{ allow: everything, access: "rwm" }];
  for (const [index, device] of config.devices.entries()) {
    const field = `config.devices[${index}]`;
    const access = device.permissions || "rwm";
    if (!/^[rwm]+$/.test(access)) throw invalid(`${field}.permissions: "${access}" has letters other than r, w and m`);
    const found = await devicesAt(device.hostPath, device.containerPath || device.hostPath, field);
    for (const one of found) {
      devices.push({ ...one, ...owner });
      rules.push({ allow: true, type: one.type, major: one.major, minor: one.minor, access });
    }
  }
  return { devices, rules };
}

async function devicesAt(hostPath: string, containerPath: string, field: string): Promise<oci.LinuxDevice[]> {
  let resolved: string;
  try {
    resolved = await realpath(hostPath);
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code !== "ENOENT") throw error;
    throw invalid(`${field}.host_path: "${hostPath}" does not exist on the node`);
  }
  const stats = await stat(resolved);
  if (stats.isDirectory()) return await devicesBelow(resolved, containerPath, new Set());
  const device = await deviceAt(resolved, containerPath);
  if (!device) throw invalid(`${field}.host_path: "${hostPath}" is not a device`);
  return [device];
}

async function devicesBelow(dir: string, containerDir: string, skip: ReadonlySet<string>): Promise<oci.LinuxDevice[]> {
  const found: oci.LinuxDevice[] = [];
  for (const entry of await readdir(dir, { withFileTypes: true })) {
    if (skip.has(entry.name)) continue;
    const [path, containerPath] = [join(dir, entry.name), join(containerDir, entry.name)];
    if (entry.isDirectory()) found.push(...(await devicesBelow(path, containerPath, new Set())));
    else if (entry.isCharacterDevice() || entry.isBlockDevice()) {
      const device = await deviceAt(path, containerPath);
      if (device) found.push(device);
    }
  }
  return found;
}

/** undefined: not a device, or gone since it was listed. */
async function deviceAt(path: string, containerPath: string): Promise<oci.LinuxDevice | undefined> {
  const stats = await stat(path).catch((error: NodeJS.ErrnoException) => {
    if (error.code === "ENOENT") return undefined;
    throw error;
  });
  if (!stats?.isCharacterDevice() && !stats?.isBlockDevice()) return undefined;
  return {
    path: containerPath,
    type: stats.isCharacterDevice() ? "c" : "b",
    major: majorOf(stats.rdev),
    minor: minorOf(stats.rdev),
    fileMode: stats.mode & 0o7777,
    uid: stats.uid,
    gid: stats.gid,
  };
}

/** glibc's gnu_dev_major and gnu_dev_minor, for numbers up to 32 bits. */
const majorOf = (rdev: number): number => (rdev >>> 8) & 0xfff;
const minorOf = (rdev: number): number => (rdev & 0xff) | ((rdev >>> 12) & 0xfff00);
