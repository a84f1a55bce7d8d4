/** What of the host a machine sees: one directory, into which root file systems and volumes are mounted while it runs. */
import { MNT_DETACH, MOUNT_ATTR, MS, NO_SLOT, type Order } from "@berth/kernel";
import { shareServed, shareWritable } from "./host.ts";

const SLOT = 0;

/**
 * Two views of it: what is mounted in the writable one arrives in the other, which is read-only at its own level and is what virtiofsd
 * serves. A mount brings its own right to be written.
 */
export function shareOrders(machine: string): Order[] {
  const [writable, served] = [shareWritable(machine), shareServed(machine)];
  return [
    ...[writable, served].map((path): Order => ({
      order: "mkdir",
      args: { path, mode: 0o711, existOk: 1, parents: 1 },
    })),
    { order: "mount", args: { source: writable, target: writable, fstype: "", flags: MS.BIND, data: "" } },
    // Private first: this mount is no copy of another's, and none is made of it where its parent is shared.
    { order: "mount", args: { source: "", target: writable, fstype: "", flags: MS.PRIVATE, data: "" } },
    { order: "mount", args: { source: "", target: writable, fstype: "", flags: MS.SHARED, data: "" } },
    { order: "mount", args: { source: writable, target: served, fstype: "", flags: MS.BIND, data: "" } },
    { order: "mount", args: { source: "", target: served, fstype: "", flags: MS.SLAVE, data: "" } },
    {
      order: "mount",
      args: { source: "", target: served, fstype: "", flags: MS.REMOUNT | MS.BIND | MS.RDONLY, data: "" },
    },
  ];
}

/** Idempotent; what is mounted below goes along. */
export function shareRemoval(machine: string): Order[] {
  return [shareServed(machine), shareWritable(machine)].map((path) => ({
    order: "unmount",
    args: { path, flags: MNT_DETACH },
  }));
}

export interface SharedMount {
  readonly source: string;
  readonly recursive: boolean;
  readonly readonly: boolean;
}

/** The volume itself, and not what is mounted in it, which keeps its own right to be written. */
const readOnly: Order = {
  order: "mount_attr",
  args: { slot: SLOT, set: MOUNT_ATTR.RDONLY, clear: 0n, propagation: 0n, recursive: 0, usernsSlot: NO_SLOT },
};

/** `path`: in the writable view, there already, a directory as the source is or a file. What is mounted below the source later arrives. */
export function shareMountOrders(path: string, { source, recursive, readonly }: SharedMount): Order[] {
  return [
    { order: "open_tree", args: { slot: SLOT, path: source, recursive: recursive ? 1 : 0 } },
    {
      order: "mount_attr",
      args: {
        slot: SLOT,
        set: 0n,
        clear: 0n,
        propagation: MS.SLAVE,
        recursive: recursive ? 1 : 0,
        usernsSlot: NO_SLOT,
      },
    },
    ...(readonly ? [readOnly] : []),
    { order: "attach_host", args: { slot: SLOT, target: path } },
    { order: "close", args: { slot: SLOT } },
  ];
}

export const unmountOrder = (path: string): Order => ({ order: "unmount", args: { path, flags: MNT_DETACH } });
