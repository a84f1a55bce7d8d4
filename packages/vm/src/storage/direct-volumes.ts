/**
 * Direct-assigned volumes (Kata's docs/design/direct-blk-device-assignment.md): a CSI driver leaves a block device unmounted on the node, and
 * says by mountInfo.json how a machine mounts it. The file is in a directory named by the volume's path, in base64 as for URLs.
 */
import { mkdir, readdir, readFile, rename, rm, stat, writeFile } from "node:fs/promises";
import { createHash } from "node:crypto";
import { isAbsolute } from "node:path";
import { MNT_DETACH, MS, type Order, parseMountOptions } from "@berth/kernel";
import { VmError } from "../errors.ts";
import { namesIn } from "../names-in.ts";
import type { PodMachine } from "../sandbox/machine.ts";
import { deviceOfDisk, useDisk } from "./disks.ts";

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
  if (!BLOCK_TYPES.has(type))
    throw new VmError(
      "Unsupported",
      `mount info: volume-type "${type}": a machine takes block devices alone ("block")`,
    );
  for (const key of REFUSED)
    if ((metadata[key] ?? "false") !== "false")
      throw new VmError(
        "Unsupported",
        `mount info: metadata.${key}: file systems are neither made nor decrypted in the guest; do it on the node`,
      );
  return { "volume-type": type, device, fstype, metadata, options };
}

/** "block" by Kata's documents, "directvol" by its runtime in Rust, which has vfiovol, spdkvol and spoolvol beside it. */
const BLOCK_TYPES: ReadonlySet<unknown> = new Set(["", "block", "directvol"]);
const REFUSED = ["encryptionKey", "createFilesystem"] as const;

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
  const group = groupOf(path, info.metadata ?? {});
  const about = await stat(info.device).catch((error: NodeJS.ErrnoException) => {
    throw new VmError("Missing", `direct volume ${path}: device ${info.device}: ${error.message}`, { cause: error });
  });
  if (!about.isBlockDevice() && !about.isFile())
    throw new VmError("Unsupported", `direct volume ${path}: ${info.device} is neither a block device nor a file`);
  const disk = { id: diskOf(path), path: info.device, readonly: isReadonly(info) };
  const { hand } = machine.guest;
  await useDisk(machine, disk, container, {
    set: async (device) => {
      await hand.run({ orders: mountOrders(at, device, info) });
      try {
        if (group) await hand.run({ orders: [groupOrder(at, info, group)] }, { timeoutMs: OWN_MS });
      } catch (error) {
        await hand.run({ orders: [{ order: "unmount", args: { path: at, flags: MNT_DETACH } }] });
        throw error;
      }
    },
  });
  await writeFile(recordOf(path, machine), "", { mode: 0o600 });
  return at;
}

/** Every file of a volume is changed. */
const OWN_MS = 100_000;

const isReadonly = ({ options = [] }: MountInfo): boolean => options.includes("ro");

function mountOrders(at: string, device: string, { fstype, options = [] }: MountInfo): Order[] {
  const { set, data } = parseMountOptions(options);
  return [
    { order: "mkdir", args: { path: at, mode: 0o755, existOk: 1, parents: 1 } },
    { order: "mount", args: { source: device, target: at, fstype, flags: flagsOf(set), data: data.join(",") } },
  ];
}

/** mount(2)'s, of mount_setattr(2)'s: the first four are the same. */
const flagsOf = (set: bigint): bigint => (set & 0xfn) | ((set & ATIME) === NOATIME ? MS.NOATIME : 0n);
const ATIME = 0x70n;
const NOATIME = 0x10n;

interface VolumeGroup {
  readonly gid: number;
  /** Not where the volume's own directory is the group's already. */
  readonly onMismatch: boolean;
}

const MAX_GID = 0xffff_fffe;

/** Throws VmError InvalidConfiguration. A policy without a group means nothing, to Kata too. */
function groupOf(path: string, metadata: Readonly<Record<string, string>>): VolumeGroup | undefined {
  const { fsGroup, fsGroupChangePolicy } = metadata;
  if (fsGroup === undefined) return undefined;
  const gid = /^\d+$/.test(fsGroup) ? Number(fsGroup) : 0;
  if (gid < 1 || gid > MAX_GID)
    throw new VmError(
      "InvalidConfiguration",
      `direct volume ${path}: metadata.fsGroup: "${fsGroup}" is no group from 1 to ${MAX_GID}`,
    );
  return { gid, onMismatch: fsGroupChangePolicy === "OnRootMismatch" };
}

const groupOrder = (path: string, info: MountInfo, { gid, onMismatch }: VolumeGroup): Order => ({
  order: "fs_group",
  args: { path, gid, readonly: isReadonly(info) ? 1 : 0, onMismatch: onMismatch ? 1 : 0 },
});

/** For releaseDisks: what a disk of direct volumes was mounted at. */
export const directVolumeMount = (disk: string): string | undefined =>
  disk.startsWith("v") ? `${PLACES}/${disk.slice(1)}` : undefined;

/** Whose it is, as CSI drivers and kata-runtime look it up. */
const recordOf = (path: string, { machine: { id, pod = id } }: Pick<PodMachine, "machine">, root?: string): string =>
  `${directoryOf(path, root)}/${pod}`;

/** When its disk has gone: nobody takes it for this pod's any more. Idempotent. */
export async function forgetDirectVolume(machine: Pick<PodMachine, "machine">, disk: string): Promise<void> {
  const { path } = (await directVolumes()).find((volume) => diskOf(volume.path) === disk) ?? {};
  if (path !== undefined) await rm(recordOf(path, machine), { force: true });
}

/** Of a pod that is gone, however it went. Idempotent. */
export async function forgetDirectVolumes(pod: string): Promise<void> {
  for (const { path } of await directVolumes()) await rm(`${directoryOf(path)}/${pod}`, { force: true });
}

/** The pod that has it. Rejects with VmError Missing, in kata-runtime's words. */
export async function podOfDirectVolume(path: string, root?: string): Promise<string> {
  const names = await readdir(directoryOf(path, root)).catch((error: NodeJS.ErrnoException) => {
    throw new VmError("Missing", `${path}: ${error.message}`, { cause: error });
  });
  const pod = names.find((name) => !name.startsWith(MOUNT_INFO));
  if (pod === undefined) throw new VmError("Missing", `no sandbox found for ${path}`);
  return pod;
}

export interface DirectVolume {
  readonly path: string;
  readonly info: MountInfo;
  /** In the guest. */
  readonly at: string;
  /** Of the machine. */
  readonly disk: string;
}

/** One that this machine has, by its path or, as kata-runtime names it, by its device. Rejects with VmError Missing. */
export async function directVolumeOf(machine: PodMachine, name: string): Promise<DirectVolume & { device: string }> {
  for (const volume of await directVolumes()) {
    if (volume.path !== name && volume.info.device !== name) continue;
    const device = await deviceOfDisk(machine, volume.disk);
    if (device !== undefined) return { ...volume, device };
  }
  throw new VmError("Missing", `mount ${name} not found in sandbox`);
}

async function directVolumes(root = DIRECT_VOLUMES): Promise<DirectVolume[]> {
  const names = await namesIn(root);
  const all = await Promise.all(
    names.map(async (name): Promise<DirectVolume[]> => {
      const path = Buffer.from(name, "base64url").toString();
      // One that cannot be read is nobody's: whoever names it by its path is told why.
      const info = await findDirectVolume(path, root).catch(() => undefined);
      return info ? [{ path, info, at: placeOf(path), disk: diskOf(path) }] : [];
    }),
  );
  return all.flat();
}
