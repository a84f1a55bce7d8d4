/** A pod's scratch volumes where nothing of the node is shared: in the guest's memory, or on a disk that is a file of the volume's directory. */
import { createHash } from "node:crypto";
import { join } from "node:path";
import { type Hand, MS, type Order } from "@berth/kernel";
import type { PodMachine } from "../sandbox/machine.ts";
import { useDisk } from "./disks.ts";
import { makeDisk } from "./make-disk.ts";

const PLACES = "/run/berth/e";
const POD = "pod";

export interface EmptyDirectory {
  /** On the host. */
  readonly source: string;
  readonly owner: { readonly mode: number; readonly uid: number; readonly gid: number };
  /** Of medium Memory: how much it may hold. Undefined: it is on disk. */
  readonly memoryBytes: number | undefined;
}

/** Answers where it is in the guest. What the kubelet measures and limits is the directory on the host, where the disk's blocks are. */
export async function plugEmptyDirectory(
  hand: Hand,
  machine: PodMachine,
  { source, owner, memoryBytes }: EmptyDirectory,
): Promise<string> {
  const key = createHash("sha256").update(source).digest("hex").slice(0, 12);
  const at = `${PLACES}/${key}`;
  const volume = `${at}/volume`;
  if (memoryBytes !== undefined) {
    await mountOnce(machine, at, volume, owner, {
      order: "mount",
      args: { source: "emptydir", target: at, fstype: "tmpfs", flags: NOSUID_NODEV, data: `size=${memoryBytes}` },
    });
    return volume;
  }
  const disk = { id: `e${key}`, path: join(source, "disk.ext4"), readonly: false };
  await useDisk(machine, disk, POD, {
    before: () => makeDisk(hand, disk.path),
    set: (device) =>
      mountOnce(machine, at, volume, owner, {
        order: "mount",
        args: { source: device, target: at, fstype: "ext4", flags: NOSUID_NODEV, data: "discard,noinit_itable" },
      }),
  });
  return volume;
}

const NOSUID_NODEV = MS.NOSUID | MS.NODEV;

async function mountOnce(
  { guest: { hand } }: PodMachine,
  at: string,
  volume: string,
  { mode, uid, gid }: EmptyDirectory["owner"],
  mount: Order,
): Promise<void> {
  const there = await hand.run({ orders: [{ order: "find", args: { pattern: volume, timeoutMs: 0 } }] });
  if (there.get(0) !== undefined) return;
  await hand.run({
    orders: [
      { order: "mkdir", args: { path: at, mode: 0o755, existOk: 1, parents: 1 } },
      mount,
      { order: "mkdir", args: { path: volume, mode, existOk: 1, parents: 0 } },
      { order: "chown", args: { directory: at, files: ["volume"], uid, gid } },
    ],
  });
}
