/** A hypervisor that runs as a user of its own (key rootless): without a name, and nobody else's. */
import { chmod, chown, stat } from "node:fs/promises";
import type { Order } from "@berth/kernel";

export interface VmUser {
  readonly uid: number;
  readonly groups: readonly number[];
}

/** Above what adduser(8), systemd and containers' user namespaces take (UIDS-GIDS of systemd). */
const FIRST_UID = 0x70_00_00_00;
const UIDS = 0x08_00_00_00;
const KVM = "/dev/kvm";

/** Out of the machine's id, which is random: as another machine's once in a hundred million. */
export async function vmUser(id: string): Promise<VmUser> {
  // FNV-1a, 32 bits.
  let hash = 0x81_1c_9d_c5;
  for (const byte of Buffer.from(id)) hash = Math.imul(hash ^ byte, 0x01_00_01_93) >>> 0;
  return { uid: FIRST_UID + (hash % UIDS), groups: await kvmGroups() };
}

async function kvmGroups(): Promise<number[]> {
  try {
    return [(await stat(KVM)).gid];
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === "ENOENT") return [];
    throw error;
  }
}

/** It makes its sockets there, and takes nobody else's away. */
export async function admit(directory: string, { uid }: VmUser): Promise<void> {
  await chown(directory, 0, uid);
  await chmod(directory, 0o1770);
}

/** Without a capability. */
export const becomeOrders = ({ uid, groups }: VmUser): Order[] => [
  { order: "bounding", args: { mask: 0n } },
  { order: "user", args: { uid, gid: uid, groups: [...groups], keepGroups: 0, chownStdio: 1 } },
  { order: "caps", args: { effective: 0n, permitted: 0n, inheritable: 0n, ambient: 0n } },
  { order: "no_new_privs", args: {} },
];
