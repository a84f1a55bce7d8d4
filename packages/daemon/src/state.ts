/** The state directory's own mounts: pins live on a private mount, so that no other mount namespace keeps them alive. */
import { createHash } from "node:crypto";
import { mkdir, readdir, rmdir } from "node:fs/promises";
import { type Hand, type Order, isMountpoint } from "@berth/kernel";
import type { Settings } from "./config/settings.ts";

const MS_BIND = 0x1000n;
const MS_REC = 0x4000n;
const MS_PRIVATE = 1n << 18n;
const MS_SHARED = 1n << 20n;
const MNT_DETACH = 2n;
const DEFAULT_STATE = "/run/berth";

export const podsDir = (settings: Settings): string => `${settings.state}/pods`;

export async function prepareState(hand: Hand, settings: Settings): Promise<void> {
  const orders: Order[] = [];
  for (const dir of [podsDir(settings), `${settings.state}/containers`, settings.netnsDir])
    await mkdir(dir, { recursive: true, mode: 0o711 });
  if (!(await isMountpoint(podsDir(settings)))) orders.push(...bindOnItself(podsDir(settings), MS_PRIVATE));
  // As ip-netns(8) does: shared, so that removing a namespace's pin removes it in every other mount namespace too.
  if (!(await isMountpoint(settings.netnsDir))) orders.push(...bindOnItself(settings.netnsDir, MS_SHARED));
  if (orders.length > 0) await hand.run({ orders });
}

const bindOnItself = (path: string, propagation: bigint): Order[] => [
  { order: "mount", args: { source: path, target: path, fstype: "", flags: MS_BIND | MS_REC, data: "" } },
  { order: "mount", args: { source: "", target: path, fstype: "", flags: propagation, data: "" } },
];

/** With no pod left the state directory is left without a mount and without a file; otherwise all stays for the next start. */
export async function releaseState(hand: Hand, settings: Settings): Promise<void> {
  if ((await readdir(podsDir(settings))).length > 0) return;
  await hand.run({ orders: [{ order: "unmount", args: { path: podsDir(settings), flags: MNT_DETACH } }] });
  for (const dir of [podsDir(settings), `${settings.state}/containers`]) await rmdir(dir).catch(notEmpty);
}

function notEmpty(error: NodeJS.ErrnoException): void {
  if (error.code !== "ENOTEMPTY" && error.code !== "ENOENT") throw error;
}

/** Two daemons on one machine must not share a cgroup: each state directory but the default has its own. */
export function cgroupRootOf(state: string): string {
  if (state === DEFAULT_STATE) return "/berth";
  return `/berth-${createHash("sha256").update(state).digest("hex").slice(0, 8)}`;
}
