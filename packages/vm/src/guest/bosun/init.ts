/** The reaping PID 1 of a pod that shares its PID namespace, in berth's own guest. */
import { CLONE, connectMonitor, MonitorLost, NO_SLOT, type Order } from "@berth/kernel";
import { cgroupCreation } from "@berth/runtime";
import type { Guest } from "../../sandbox/guest.ts";
import { guestContainer } from "../../sandbox/host.ts";
import type { GuestInit } from "../runtime.ts";

const INIT = "init";
const SIGKILL = 9;

export async function startInit(guest: Guest): Promise<GuestInit> {
  const dir = guestContainer(INIT);
  const { orders, slot } = cgroupCreation("/berth/init", guest.facts);
  const plan: readonly Order[] = [
    ...orders,
    {
      order: "clone",
      args: { flags: CLONE.NEWPID, cgroupSlot: slot ?? NO_SLOT, uidMap: "", gidMap: "", denySetgroups: 0 },
    },
    { order: "dumpable", args: { value: 0 } },
    { order: "setsid", args: {} },
    { order: "no_new_privs", args: {} },
    { order: "bounding", args: { mask: 0n } },
    { order: "caps", args: { effective: 0n, permitted: 0n, inheritable: 0n, ambient: 0n } },
    { order: "park", args: {} },
    { order: "reap", args: {} },
  ];
  await guest.hand.run({ orders: [{ order: "mkdir", args: { path: dir, mode: 0o700, existOk: 1, parents: 1 } }] });
  const { pid } = await guest.hand.monitor({ dir, plan: { orders: plan } });
  const link = await connectMonitor(dir, undefined, guest.reach);
  try {
    await link.start();
  } catch (error) {
    await link.kill(0, SIGKILL);
    throw error;
  }
  return { pid, link };
}

export async function findInit(guest: Guest): Promise<GuestInit | undefined> {
  try {
    const link = await connectMonitor(guestContainer(INIT), undefined, guest.reach);
    return { pid: (await link.state()).pid, link };
  } catch (error) {
    if (error instanceof MonitorLost) return undefined;
    throw error;
  }
}
