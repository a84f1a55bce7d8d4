/** How full and how large a directly assigned volume is. */
import { readFile, stat } from "node:fs/promises";
import type { Order } from "@berth/kernel";
import { VmError } from "../errors.ts";
import type { VolumeStats } from "../guest/runtime.ts";
import type { Disk } from "../hypervisor/machine.ts";
import type { PodMachine } from "../sandbox/machine.ts";
import { directVolumeOf, type MountInfo } from "./direct-volumes.ts";

/** `name`: its path, or its device. As kata-runtime prints it: CSI's NodeGetVolumeStatsResponse, by the names of Kata's csi.proto. */
export async function directVolumeStats(machine: PodMachine, name: string): Promise<string> {
  const { at } = await directVolumeOf(machine, name);
  return statsJson(await machine.runtime.tools.volumeStats(at));
}

const UNITS = { bytes: 1, inodes: 2 } as const;

/** Go's encoder leaves out what is zero; numbers beyond 2^53 stay whole. */
export function statsJson({ usage, condition }: VolumeStats): string {
  const entries = usage.map(({ unit, available, total, used }) =>
    members([
      ["available", available],
      ["total", total],
      ["used", used],
      ["unit", BigInt(UNITS[unit])],
    ]),
  );
  const { abnormal, message } = condition;
  const said = { ...(abnormal && { abnormal }), ...(message !== "" && { message }) };
  return `{"usage":[${entries.join(",")}],"volume_condition":${JSON.stringify(said)}}`;
}

const members = (numbers: readonly (readonly [name: string, value: bigint])[]): string =>
  `{${numbers
    .filter(([, value]) => value !== 0n)
    .map(([name, value]) => `"${name}":${value}`)
    .join(",")}}`;

const SECTOR = 512;
const APPEAR_MS = 30_000;
/** A file system of many groups writes all of their tables. */
const GROW_MS = 120_000;

/**
 * What is behind it is made so large, where it is a file, and its file system takes all of it. Rejects with VmError: Unsupported where
 * hypervisor or file system cannot.
 */
export async function resizeDirectVolume(machine: PodMachine, name: string, size: number): Promise<void> {
  const { path, info, disk, device, at } = await directVolumeOf(machine, name);
  const bytes = Math.ceil(size / SECTOR) * SECTOR;
  await checkSize(path, info, bytes);
  const about: Pick<Disk, "id" | "path"> = { id: disk, path: info.device };
  await machine.vm.resizeDisk(about, bytes);
  const { driver } = machine.machine.diskOptions;
  const orders: Order[] = [
    ...(driver === "virtio-scsi" ? [rescan(device)] : []),
    { order: "grow_file_system", args: { path: at, device, bytes: BigInt(bytes), timeoutMs: APPEAR_MS } },
  ];
  try {
    await machine.guest.hand.run({ orders }, { timeoutMs: GROW_MS });
  } catch (error) {
    if ((error as { code?: unknown }).code !== "EOPNOTSUPP") throw error;
    throw new VmError(
      "Unsupported",
      `direct volume ${path}: its device has ${bytes} bytes now, but ${info.fstype} cannot grow while it is mounted; ext4 and xfs can`,
      { cause: error },
    );
  }
}

const rescan = (device: string): Order => ({
  order: "write_file",
  args: { path: `/sys/class/block/${device.slice("/dev/".length)}/device/rescan`, data: Buffer.from("1") },
});

async function checkSize(path: string, { device, options = [] }: MountInfo, bytes: number): Promise<void> {
  if (options.includes("ro"))
    throw new VmError("Unsupported", `direct volume ${path}: it is mounted read-only, and cannot grow`);
  const about = await stat(device);
  const present = about.isFile() ? about.size : await deviceBytes(about.rdev);
  if (bytes < present && about.isFile())
    throw new VmError(
      "InvalidArgument",
      `direct volume ${path}: ${device} has ${present} bytes; it can grow, and not become smaller`,
    );
  if (bytes > present && !about.isFile())
    throw new VmError(
      "InvalidArgument",
      `direct volume ${path}: ${device} has ${present} bytes; make the device itself larger first`,
    );
}

async function deviceBytes(rdev: number): Promise<number> {
  const [major, minor] = [(rdev >> 8) & 0xfff, (rdev & 0xff) | ((rdev >> 12) & 0xfff00)];
  return Number((await readFile(`/sys/dev/block/${major}:${minor}/size`, "utf8")).trim()) * SECTOR;
}
