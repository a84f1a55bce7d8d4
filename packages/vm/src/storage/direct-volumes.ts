/**
 * Direct-assigned volumes (Kata's docs/design/direct-blk-device-assignment.md): a CSI driver leaves a block device unmounted on the node, and
 * says by mountInfo.json how a machine mounts it. The file is in a directory named by the volume's path, in base64 as for URLs.
 */
import { mkdir, readFile, rename, rm, stat, writeFile } from "node:fs/promises";
import { createHash } from "node:crypto";
import { isAbsolute } from "node:path";
import { MS, type Order, parseMountOptions } from "@berth/kernel";
import { VmError } from "../errors.ts";
import type { PodMachine } from "../sandbox/machine.ts";
import { useDisk } from "./disks.ts";

/** Where Kata's runtime and CSI drivers have them. */
const DIRECT_VOLUMES = "/run/kata-containers/shared/direct-volumes";
const MOUNT_INFO = "mountInfo.json";
const PLACES = "/run/berth/v";

export interface MountInfo {
  readonly "volume-type": string;
  /** A block device, or a file that is one. */
  readonly device: string;
  readonly fstype: string;
  readonly metadata?: Readonly<Record<string, string>>;
  readonly options?: readonly string[];
}

const directoryOf = (path: string, root = DIRECT_VOLUMES): string =>
  `${root}/${Buffer.from(path).toString("base64url")}${"=".repeat(-Buffer.from(path).toString("base64url").length & 3)}`;

/** Throws VmError InvalidConfiguration. */
function parseMountInfo(text: string): MountInfo {
  let info: unknown;
  try {
    info = JSON.parse(text);
  } catch (error) {
    throw new VmError("InvalidConfiguration", `mount info: ${(error as Error).message}`, { cause: error });
  }
  const { device, fstype, metadata = {}, options = [] } = (info ?? {}) as Partial<MountInfo>;
  if (typeof device !== "string" || !isAbsolute(device))
    throw new VmError("InvalidConfiguration", `mount info: device: give the absolute path of a block device`);
  if (typeof fstype !== "string" || fstype === "")
    throw new VmError("InvalidConfiguration", "mount info: fstype: name the file system on the device");
  if (!Array.isArray(options) || options.some((option) => typeof option !== "string"))
    throw new VmError("InvalidConfiguration", "mount info: options: give a list of mount options");
  const type = (info as Partial<MountInfo>)["volume-type"] ?? "";
  return { "volume-type": type, device, fstype, metadata, options };
}

/** kata-runtime direct-volume add. */
export async function addDirectVolume(path: string, info: string, root?: string): Promise<void> {
  parseMountInfo(info);
  const directory = directoryOf(path, root);
  await mkdir(directory, { recursive: true, mode: 0o700 });
  const file = `${directory}/${MOUNT_INFO}`;
  await writeFile(`${file}.new`, info, { mode: 0o600 });
  await rename(`${file}.new`, file);
}

/** Idempotent. */
export async function removeDirectVolume(path: string, root?: string): Promise<void> {
  await rm(directoryOf(path, root), { recursive: true, force: true });
}

/** Undefined: the path is no such volume. */
export async function findDirectVolume(path: string, root?: string): Promise<MountInfo | undefined> {
  try {
    return parseMountInfo(await readFile(`${directoryOf(path, root)}/${MOUNT_INFO}`, "utf8"));
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === "ENOENT") return undefined;
    throw error;
  }
}

const keyOf = (path: string): string => createHash("sha256").update(path).digest("hex").slice(0, 12);
const diskOf = (path: string): string => `v${keyOf(path)}`;
const placeOf = (path: string): string => `${PLACES}/${keyOf(path)}`;

/** Mounts it in the guest, once for all of the pod's containers. Answers where. Rejects with VmError. */
export async function plugDirectVolume(
  machine: PodMachine,
  container: string,
  path: string,
  info: MountInfo,
): Promise<string> {
  const at = placeOf(path);
  if (info.metadata?.["fsGroup"] !== undefined)
    throw new VmError("Unsupported", `direct volume ${path}: metadata.fsGroup: the volume's owners are not changed`);
  const about = await stat(info.device).catch((error: NodeJS.ErrnoException) => {
    throw new VmError("Missing", `direct volume ${path}: device ${info.device}: ${error.message}`, { cause: error });
  });
  if (!about.isBlockDevice() && !about.isFile())
    throw new VmError("Unsupported", `direct volume ${path}: ${info.device} is neither a block device nor a file`);
  const { set, data } = parseMountOptions(info.options ?? []);
  const readonly = (info.options ?? []).includes("ro");
  const disk = { id: diskOf(path), path: info.device, readonly };
  await useDisk(machine, disk, container, {
    set: async (device) => {
      const orders: Order[] = [
        { order: "mkdir", args: { path: at, mode: 0o755, existOk: 1, parents: 1 } },
        {
          order: "mount",
          args: { source: device, target: at, fstype: info.fstype, flags: flagsOf(set), data: data.join(",") },
        },
      ];
      await machine.guest.hand.run({ orders });
    },
  });
  await writeFile(`${directoryOf(path)}/${machine.id}`, "", { mode: 0o600 });
  return at;
}

/** mount(2)'s, of mount_setattr(2)'s: the first four are the same. */
const flagsOf = (set: bigint): bigint => (set & 0xfn) | ((set & ATIME) === NOATIME ? MS.NOATIME : 0n);
const ATIME = 0x70n;
const NOATIME = 0x10n;

/** For releaseDisks: what a disk of direct volumes was mounted at. */
export const directVolumeMount = (disk: string): string | undefined =>
  disk.startsWith("v") ? `${PLACES}/${disk.slice(1)}` : undefined;
