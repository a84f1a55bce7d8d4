/** Taps that the hypervisor has open when it starts, so that it need not be anybody who may make one. */
import type { Order } from "@berth/kernel";
import { VmError } from "../errors.ts";
import type { PodInterface } from "./host.ts";

export interface OpenTap {
  /** Of the hypervisor's. */
  readonly fd: number;
  /** Of its process, in the pod's network and before it is anything. */
  readonly orders: readonly Order[];
}

/** Where order `inherit` puts descriptors, and how many. */
const [FIRST, ROOM] = [200, 8] as const;
const SLOT = 1;

/** `open`: puts it into the slot. Throws VmError Unsupported where there is no room. */
export function openTap(number: number, open: (slot: number) => readonly Order[]): OpenTap {
  if (number >= ROOM) throw new VmError("Unsupported", `a machine has ${ROOM} open interfaces at most`);
  return {
    fd: FIRST + number,
    orders: [
      ...open(SLOT),
      { order: "inherit", args: { slot: SLOT, number } },
      { order: "close", args: { slot: SLOT } },
    ],
  };
}

export const openTaps = (interfaces: readonly PodInterface[]): OpenTap[] =>
  interfaces.map(({ tap }, number) => openTap(number, (slot) => [{ order: "tap", args: { slot, name: tap } }]));
