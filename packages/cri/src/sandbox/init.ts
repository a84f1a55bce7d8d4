/** The reaping PID 1 of a pod whose containers share one PID namespace: bosun itself, in a monitor of its own. */
import { mkdir } from "node:fs/promises";
import {
  CLONE,
  NO_SLOT,
  compileSeccomp,
  connectMonitor,
  killCgroup,
  type Order,
  type OrderArguments,
  type Plan,
} from "@berth/kernel";
import { type CompiledFilter, cgroupCreation } from "@berth/runtime";
import type { oci } from "@berth/spec";
import type { CriContext } from "../context.ts";
import { sandboxDir } from "../context.ts";
import { seccompOf } from "../container/seccomp.ts";
import type { Sandbox } from "../store/records.ts";
import { cgroupOf, joinScope, removeCgroup, type Cgroup } from "../cgroups.ts";
import { ipcPath, netnsPath, podNamespaces, usernsPath, utsPath, type PodNamespaces } from "./namespaces.ts";
import { lastMapped } from "./userns.ts";

const [ROOT_SLOT, NET_SLOT, UTS_SLOT, IPC_SLOT, USER_SLOT] = [0, 1, 2, 3, 4] as const;
const becomeRoot: Order = { order: "user", args: { uid: 0, gid: 0, groups: [], keepGroups: 1, chownStdio: 0 } };
/** MOUNT_ATTR_RDONLY|NOSUID|NODEV|NOEXEC. */
const READ_ONLY = 0xfn;
/** What the pause image runs as. */
const NOBODY = 65535;

export const initDir = (context: CriContext, id: string): string => `${sandboxDir(context, id)}/init`;
const initCgroup = (context: CriContext, { record }: Sandbox): Cgroup => cgroupOf(context, record, record.id);

/** It can be seen, and with CAP_SYS_PTRACE entered, by the pod's containers: so it has no privilege, no files and no capability. */
function initPlan(context: CriContext, sandbox: Sandbox, filter: CompiledFilter | undefined): Plan {
  const { id, config } = sandbox.record;
  const ns = podNamespaces(config);
  const { orders: cgroup, slot } = cgroupCreation(initCgroup(context, sandbox).cgroupPath, context.host);
  const joined: [slot: number, path: string, type: bigint][] = [];
  if (!ns.hostNetwork)
    joined.push([NET_SLOT, netnsPath(context, id), CLONE.NEWNET], [UTS_SLOT, utsPath(context, id), CLONE.NEWUTS]);
  if (!ns.hostIpc) joined.push([IPC_SLOT, ipcPath(context, id), CLONE.NEWIPC]);
  // Last: from then on this process is root there, and nobody on the host.
  if (ns.userns) joined.push([USER_SLOT, usernsPath(context, id), CLONE.NEWUSER]);
  const orders: Order[] = [
    ...cgroup,
    ...joined.map(([slot, path]): Order => ({ order: "open", args: { slot, path, flags: 0n } })),
    { order: "enter_empty_mounts", args: {} },
    ...joined.map(([slot, , type]): Order => ({ order: "setns", args: { slot, type } })),
    {
      order: "clone",
      args: {
        flags: CLONE.NEWPID | CLONE.NEWNS,
        cgroupSlot: slot ?? NO_SLOT,
        uidMap: "",
        gidMap: "",
        denySetgroups: 0,
      },
    },
    // Not before: to be born in its cgroup the process needs the host's root.
    ...(ns.userns ? [becomeRoot] : []),
    { order: "dumpable", args: { value: 0 } },
    { order: "setsid", args: {} },
    {
      order: "fs_mount",
      args: {
        slot: ROOT_SLOT,
        fstype: "tmpfs",
        source: "none",
        options: ["nr_inodes=1"],
        attrs: READ_ONLY,
        fdKeys: [],
        fdSlots: [],
      },
    },
    { order: "attach_root", args: { slot: ROOT_SLOT, at: "/rootfs", root: ROOT_SLOT } },
    { order: "pivot", args: { root: ROOT_SLOT } },
    { order: "no_new_privs", args: {} },
    { order: "bounding", args: { mask: 0n } },
    { order: "user", args: userOf(sandbox, ns) },
    { order: "caps", args: { effective: 0n, permitted: 0n, inheritable: 0n, ambient: 0n } },
    { order: "park", args: {} },
    ...(filter ? [{ order: "seccomp", args: { flags: filter.flags, filter: filter.filter } } as const] : []),
    { order: "reap", args: {} },
  ];
  return { orders };
}

/** The pod's security context is about this process alone; without one it is nobody. */
function userOf({ record }: Sandbox, { userns }: PodNamespaces): OrderArguments<"user"> {
  const security = record.config.linux?.securityContext;
  const nobody = (map: readonly oci.LinuxIdMapping[] | undefined): number =>
    map ? Math.min(NOBODY, lastMapped(map)) : NOBODY;
  return {
    uid: Number(security?.runAsUser?.value ?? nobody(userns?.uids)),
    gid: Number(security?.runAsGroup?.value ?? nobody(userns?.gids)),
    groups: (security?.supplementalGroups ?? []).map(Number),
    keepGroups: 0,
    chownStdio: 0,
  };
}

/** The pod's init, started with the first container that shares the pod's PID namespace. With the sandbox's lock held. */
export async function ensurePodInit(context: CriContext, sandbox: Sandbox, signal: AbortSignal): Promise<void> {
  sandbox.init ??= await startPodInit(context, sandbox, signal);
}

async function startPodInit(
  context: CriContext,
  sandbox: Sandbox,
  signal: AbortSignal,
): Promise<NonNullable<Sandbox["init"]>> {
  const dir = initDir(context, sandbox.record.id);
  await mkdir(dir, { recursive: true, mode: 0o700 });
  const security = sandbox.record.config.linux?.securityContext;
  const seccomp = await seccompOf(security, [], context.config.unsetSeccompProfile);
  const filter = await compileSeccomp(seccomp, `${context.paths.root}/seccomp`);
  const { pid } = await context.hand.monitor({ dir, plan: initPlan(context, sandbox, filter) }, { signal });
  const link = await connectMonitor(dir);
  try {
    await joinScope(context, initCgroup(context, sandbox), { pid }, signal);
    await link.start({ signal });
    return { pid, link };
  } catch (error) {
    link.close();
    await stopPodInit(context, sandbox);
    throw error;
  }
}

/** Idempotent; also for an init that an earlier daemon started and this one has not connected to. */
export async function stopPodInit(context: CriContext, sandbox: Sandbox): Promise<void> {
  const cgroup = initCgroup(context, sandbox);
  await killCgroup(cgroup.cgroupPath, context.host);
  sandbox.init?.link?.close();
  sandbox.init = undefined;
  await removeCgroup(context, cgroup);
}
