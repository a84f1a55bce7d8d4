/** The reaping PID 1 of a pod whose containers share one PID namespace: bosun itself, in a monitor of its own. */
import { mkdir } from "node:fs/promises";
import { CLONE, NO_SLOT, connectMonitor, killCgroup, type Order, type Plan } from "@berth/kernel";
import { cgroupCreation, cgroupRemoval } from "@berth/runtime";
import type { CriContext } from "../context.ts";
import { sandboxDir } from "../context.ts";
import type { Sandbox } from "../store/records.ts";
import { cgroupParentOf } from "../cgroup-parent.ts";
import { ipcPath, netnsPath, podNamespaces, utsPath } from "./namespaces.ts";

const [ROOT_SLOT, NET_SLOT, UTS_SLOT, IPC_SLOT] = [0, 1, 2, 3] as const;
/** MOUNT_ATTR_RDONLY|NOSUID|NODEV|NOEXEC. */
const READ_ONLY = 0xfn;
/** What the pause image runs as. */
const NOBODY = 65535;

export const initDir = (context: CriContext, id: string): string => `${sandboxDir(context, id)}/init`;
const initCgroup = (context: CriContext, sandbox: Sandbox): string =>
  `${cgroupParentOf(context, sandbox.record.config)}/${sandbox.record.id}`;

/** It can be seen, and with CAP_SYS_PTRACE entered, by the pod's containers: so it has no privilege, no files and no capability. */
function initPlan(context: CriContext, sandbox: Sandbox): Plan {
  const { id, config } = sandbox.record;
  const ns = podNamespaces(config);
  const { orders: cgroup, slot } = cgroupCreation(initCgroup(context, sandbox), context.host);
  const joins: Order[] = [];
  if (!ns.hostNetwork)
    joins.push(
      ...join(NET_SLOT, netnsPath(context, id), CLONE.NEWNET),
      ...join(UTS_SLOT, utsPath(context, id), CLONE.NEWUTS),
    );
  if (!ns.hostIpc) joins.push(...join(IPC_SLOT, ipcPath(context, id), CLONE.NEWIPC));
  const orders: Order[] = [
    ...cgroup,
    ...joins,
    { order: "enter_empty_mounts", args: {} },
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
    { order: "user", args: { uid: NOBODY, gid: NOBODY, groups: [], keepGroups: 0, chownStdio: 0 } },
    { order: "caps", args: { effective: 0n, permitted: 0n, inheritable: 0n, ambient: 0n } },
    { order: "park", args: {} },
    { order: "reap", args: {} },
  ];
  return { orders };
}

const join = (slot: number, path: string, type: bigint): Order[] => [
  { order: "open", args: { slot, path, flags: 0n } },
  { order: "setns", args: { slot, type } },
];

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
  const { pid } = await context.hand.monitor({ dir, plan: initPlan(context, sandbox) }, { signal });
  const link = await connectMonitor(dir);
  await link.start({ signal });
  return { pid, link };
}

/** Idempotent; also for an init that an earlier daemon started and this one has not connected to. */
export async function stopPodInit(context: CriContext, sandbox: Sandbox): Promise<void> {
  await killCgroup(initCgroup(context, sandbox), context.host);
  sandbox.init?.link.close();
  sandbox.init = undefined;
  await context.hand.run(cgroupRemoval(initCgroup(context, sandbox), context.host));
}
