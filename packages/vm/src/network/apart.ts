/** A hypervisor in a network namespace of its own: what it plugs into has to be brought to its pod's. */
import { CLONE, type Hand, O, type Order } from "@berth/kernel";
import { inNamespace } from "./host.ts";

const POD_SLOT = 1;

/** Of a process, before it is a hypervisor. */
export const ownNamespace: Order = { order: "unshare", args: { flags: CLONE.NEWNET } };

export const namespaceOf = (pid: number): string => `/proc/${pid}/ns/net`;

/** Taps that the hypervisor has made, in its namespace `from`. They stay its own: they go when it closes them. */
export async function bringTaps(hand: Hand, from: string, netns: string, taps: readonly string[]): Promise<void> {
  if (taps.length === 0) return;
  await hand.run({
    orders: [
      { order: "open", args: { slot: POD_SLOT, path: netns, flags: BigInt(O.RDONLY) } },
      ...inNamespace(from),
      ...taps.map((tap): Order => ({ order: "move_link", args: { name: tap, newName: tap, nsSlot: POD_SLOT } })),
    ],
  });
}
