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
  /** With what is mounted below it. */
  readonly recursive: boolean;
  /** "volume": what is mounted in it keeps its own right to be written. */
  readonly readonly: "no" | "volume" | "all";
}

const attributes = (args: { set?: bigint; propagation?: bigint; recursive: boolean }): Order => ({
  order: "mount_attr",
  args: {
    slot: SLOT,
    set: args.set ?? 0n,
    clear: 0n,
    propagation: args.propagation ?? 0n,
    recursive: args.recursive ? 1 : 0,
    usernsSlot: NO_SLOT,
  },
});

/**
 * `path`: in the writable view, there already, a directory as the source is or a file. What is mounted below the source later arrives, and
 * what is unmounted there goes, whatever the volume's propagation: the share is in the node's mount namespace, where a mount that stayed
 * would keep the node from removing its directory (EBUSY).
 */
export function shareMountOrders(path: string, { source, recursive, readonly }: SharedMount): Order[] {
  return [
    { order: "open_tree", args: { slot: SLOT, path: source, recursive: recursive ? 1 : 0 } },
    attributes({ propagation: MS.SLAVE, recursive }),
    ...(readonly === "no" ? [] : [attributes({ set: MOUNT_ATTR.RDONLY, recursive: recursive && readonly === "all" })]),
    { order: "attach_host", args: { slot: SLOT, target: path } },
    { order: "close", args: { slot: SLOT } },
  ];
}

export const unmountOrder = (path: string): Order => ({ order: "unmount", args: { path, flags: MNT_DETACH } });
