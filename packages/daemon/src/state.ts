/** The state directory's own mounts: pins live on a private mount, so that no other mount namespace keeps them alive. */
import { createHash } from "node:crypto";
import { mkdir, readdir, rmdir } from "node:fs/promises";
import { type Hand, type Order, isMountpoint } from "@berth/kernel";
import type { Options } from "./options.ts";

const MS_BIND = 0x1000n;
const MS_REC = 0x4000n;
const MS_PRIVATE = 1n << 18n;
const MS_SHARED = 1n << 20n;
const MNT_DETACH = 2n;
const DEFAULT_STATE = "/run/berth";

export const podsDir = (options: Options): string => `${options.state}/pods`;

export async function prepareState(hand: Hand, options: Options): Promise<void> {
  const orders: Order[] = [];
  for (const dir of [podsDir(options), `${options.state}/containers`, options.netnsDir])
    await mkdir(dir, { recursive: true, mode: 0o711 });
  if (!(await isMountpoint(podsDir(options)))) orders.push(...bindOnItself(podsDir(options), MS_PRIVATE));
  // As ip-netns(8) does: shared, so that removing a namespace's pin removes it in every other mount namespace too.
  if (!(await isMountpoint(options.netnsDir))) orders.push(...bindOnItself(options.netnsDir, MS_SHARED));
  if (orders.length > 0) await hand.run({ orders });
}

const bindOnItself = (path: string, propagation: bigint): Order[] => [
  { order: "mount", args: { source: path, target: path, fstype: "", flags: MS_BIND | MS_REC, data: "" } },
  { order: "mount", args: { source: "", target: path, fstype: "", flags: propagation, data: "" } },
];

/** With no pod left the state directory is left without a mount and without a file; otherwise all stays for the next start. */
export async function releaseState(hand: Hand, options: Options): Promise<void> {
  if ((await readdir(podsDir(options))).length > 0) return;
  await hand.run({ orders: [{ order: "unmount", args: { path: podsDir(options), flags: MNT_DETACH } }] });
  for (const dir of [podsDir(options), `${options.state}/containers`]) await rmdir(dir).catch(notEmpty);
}

function notEmpty(error: NodeJS.ErrnoException): void {
  if (error.code !== "ENOTEMPTY" && error.code !== "ENOENT") throw error;
}

/** Two daemons on one machine must not share a cgroup: each state directory but the default has its own. */
export function cgroupRootOf(state: string): string {
  if (state === DEFAULT_STATE) return "/berth";
  return `/berth-${createHash("sha256").update(state).digest("hex").slice(0, 8)}`;
}
