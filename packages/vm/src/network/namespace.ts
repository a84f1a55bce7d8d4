/** Network namespaces of the node: made for a machine that nobody has made one for, and joined by its programs. */
import { CLONE, type Order } from "@berth/kernel";

const SLOT = 0;

/** The process that carries this out goes there, with what it starts. */
export const joinOrders = (netns: string): Order[] => [
  { order: "open", args: { slot: SLOT, path: netns, flags: 0n } },
  { order: "setns", args: { slot: SLOT, type: CLONE.NEWNET } },
  { order: "close", args: { slot: SLOT } },
];

/** A new one, with its loopback up, pinned at `path`, whose directory is there. */
export const pinOrders = (path: string): Order[] => [
  { order: "unshare", args: { flags: CLONE.NEWNET } },
  { order: "link_up", args: { name: "lo" } },
  { order: "pin_ns", args: { name: "net", path } },
];

/** Idempotent. */
export const unpinOrders = (path: string): Order[] => [{ order: "unpin", args: { path } }];
