/**
 * A container's root file system as disks: the layers of its image, read-only and shared by those of the pod that have the same, and a
 * sparse disk of its own for what it writes; put together by the guest as the host would, by overlayfs.
 */
import { lstat } from "node:fs/promises";
import { join } from "node:path";
import { type Hand, MS, type Order } from "@berth/kernel";
import type { Rootfs } from "@berth/runtime";
import { VmError } from "../errors.ts";
import type { PodMachine } from "../sandbox/machine.ts";
import { directVolumeMount, forgetDirectVolume } from "./direct-volumes.ts";
import { releaseDisks, useDisk } from "./disks.ts";
import { layersDisk, layersKey } from "./layers.ts";
import { makeDisk } from "./make-disk.ts";

/** Short: the paths of 127 layers have to fit a page (mount(2)). */
const LAYERS = "/run/berth/l";
const ROOTS = "/run/berth/b";
const layersAt = (key: string): string => `${LAYERS}/${key}`;
const ownAt = (id: string): string => `${ROOTS}/${id}`;

const PAGE = 4096;

type Machine = Pick<PodMachine, "directory" | "settings" | "guest" | "vm" | "machine">;

/** Rejects with VmError. Answers where it is in the guest; `releaseRootfs` is for what was made, also of one that failed. */
export async function plugRootfs(hand: Hand, machine: Machine, id: string, rootfs: Rootfs): Promise<string> {
  if (rootfs.kind !== "overlay" || rootfs.images === undefined || rootfs.upper === undefined)
    throw new VmError(
      "Unsupported",
      'a root file system of directories cannot be given to a machine as block devices: it takes the snapshotter erofs, or shared_fs = "virtio-fs"',
    );
  const lowers = rootfs.images.length === 0 ? [] : await plugLayers(machine, id, rootfs.images);
  const upper = rootfs.upper;
  const disk = { id: writableId(id), path: diskFile(upper), readonly: false };
  await useDisk(machine, disk, id, {
    before: () => makeDisk(hand, diskFile(upper)),
    set: async (device) => {
      const { mode, uid, gid } = await lstat(upper);
      await machine.guest.hand.run({ orders: overlayOrders(id, device, lowers, { mode: mode & 0o7777, uid, gid }) });
    },
  });
  return lowers.length === 0 ? `${ownAt(id)}/disk/upper` : `${ownAt(id)}/root`;
}

/** In the snapshot's own directory, whose use and limit it counts to. */
const diskFile = (upper: string): string => join(upper, "disk.ext4");
/** A serial number has at most 20 letters. */
const writableId = (id: string): string => `w${id.slice(0, 18)}`;

/** Where each layer is mounted, topmost first. */
async function plugLayers(machine: Machine, user: string, images: readonly string[]): Promise<string[]> {
  const { settings, directory } = machine;
  const { disk, partitions } = await layersDisk(images, `${directory}/disks`, {
    logicalSector: settings.hypervisor.block_device_logical_sector_size,
    hypervisor: settings.name,
  });
  const at = layersAt(layersKey(images));
  const places = partitions.map((_, index) => `${at}/${index}`);
  const set = async (device: string): Promise<void> => {
    const orders = partitions.flatMap((partition, index): Order[] => [
      directoryOrder(places[index] ?? ""),
      // A disk is told of before its partitions.
      { order: "find", args: { pattern: partitionOf(device, partition), timeoutMs: PARTITION_MS } },
      mountOrder(partitionOf(device, partition), places[index] ?? "", "erofs", MS.RDONLY, ""),
    ]);
    await machine.guest.hand.run({ orders });
  };
  await useDisk(machine, disk, user, { set });
  return places;
}

const PARTITION_MS = 30_000;
const partitionOf = (device: string, partition: string): string => `${device}${partition}`;

const directoryOrder = (path: string): Order => ({
  order: "mkdir",
  args: { path, mode: 0o755, existOk: 1, parents: 1 },
});
const mountOrder = (source: string, target: string, fstype: string, flags: bigint, data: string): Order => ({
  order: "mount",
  args: { source, target, fstype, flags, data },
});

interface Owner {
  readonly mode: number;
  readonly uid: number;
  readonly gid: number;
}

/** The upper directory is what the root looks like. */
function overlayOrders(id: string, device: string, lowers: readonly string[], { mode, uid, gid }: Owner): Order[] {
  const own = ownAt(id);
  const [disk, root] = [`${own}/disk`, `${own}/root`];
  const data = `lowerdir=${lowers.join(":")},upperdir=${disk}/upper,workdir=${disk}/work`;
  if (data.length >= PAGE)
    throw new VmError("Unsupported", `an image of ${lowers.length} layers: the paths of so many do not fit mount(2)`);
  return [
    directoryOrder(disk),
    // What it discards is given back to the host; inode tables are not written before they are used.
    mountOrder(device, disk, "ext4", MS.NOATIME, "discard,noinit_itable"),
    { order: "mkdir", args: { path: `${disk}/upper`, mode, existOk: 1, parents: 0 } },
    { order: "chown", args: { directory: disk, files: ["upper"], uid, gid } },
    { order: "mkdir", args: { path: `${disk}/work`, mode: 0o700, existOk: 1, parents: 0 } },
    ...(lowers.length === 0 ? [] : [directoryOrder(root), mountOrder("overlay", root, "overlay", 0n, data)]),
  ];
}

/** All disks of a container's, as far as they came; idempotent. `within`: how long the guest may take, which may hang. */
export async function releaseContainerDisks(
  machine: Machine,
  id: string,
  within: { readonly timeoutMs: number },
): Promise<void> {
  const { hand } = machine.guest;
  await releaseDisks(machine, id, async (disk) => {
    if (disk === writableId(id)) {
      const own = ownAt(id);
      const paths = [`${own}/root`, `${own}/disk`];
      await hand.run({ orders: [...paths.map(unmountOrder), { order: "remove_tree", args: { path: own } }] }, within);
    } else if (disk.startsWith("l")) {
      await unmountLayers(hand, layersAt(disk.slice(1)), within);
    } else {
      const at = directVolumeMount(disk);
      if (at === undefined) return;
      await hand.run({ orders: [unmountOrder(at)] }, within);
      await forgetDirectVolume(machine, disk);
    }
  });
}

const unmountOrder = (path: string): Order => ({ order: "unmount", args: { path, flags: 0n } });

async function unmountLayers(hand: Hand, at: string, within: { readonly timeoutMs: number }): Promise<void> {
  const outputs = await hand.run({ orders: [{ order: "find", args: { pattern: `${at}/*`, timeoutMs: 0 } }] }, within);
  const places = Buffer.from(outputs.get(0) ?? [])
    .toString()
    .split("\0")
    .filter((path) => path !== "");
  await hand.run({ orders: [...places.map(unmountOrder), { order: "remove_tree", args: { path: at } }] }, within);
}
