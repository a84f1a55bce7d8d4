/** What a person can do about an order that failed, where the errno alone does not say it. */
import type { Order } from "../orders/plan.ts";

/** Of any order. */
const GENERAL: Readonly<Record<string, string>> = {
  EMFILE: "raise the hard limit of open files (RLIMIT_NOFILE) of who starts the container",
  ENOSPC: "a file system, or a limit of the kernel, is full",
  ENOMEM: "the machine, or the cgroup above, has no memory left",
};

const BY_ORDER: Readonly<Record<string, Readonly<Record<string, string>>>> = {
  clone: {
    ENOSPC: "the machine's limit of namespaces is reached (sysctl user.max_*_namespaces)",
    EPERM: "namespaces may not be made here: run as root, or see what the machine's security modules say",
    EAGAIN: "the limit of processes is reached (pids.max of the cgroup, RLIMIT_NPROC)",
  },
  unshare: { ENOSPC: "the machine's limit of namespaces is reached (sysctl user.max_*_namespaces)" },
  setns: { EINVAL: "the path leads to a namespace of another type, or to none" },
  open_tree: { ENOENT: "the source must be there on the host before the container is made" },
  fs_mount: { ENODEV: "this kernel does not know the file system: load its module" },
  mount_attr: { EINVAL: "the kernel, or the mount's file system, does not support one of these attributes" },
  move_link: { ENODEV: "no interface of the host has that name" },
  cgroup_devices: { EPERM: "device rules on cgroup v2 need CAP_BPF or CAP_SYS_ADMIN" },
  mkdev: { EPERM: "nodes may not be made here: run as root outside of user namespaces" },
  mempolicy: { EINVAL: "the machine has no such memory nodes" },
  scheduler: { EPERM: "the policy needs CAP_SYS_NICE, or real-time budget in the cgroup" },
  pivot: { EINVAL: "the root cannot be pivoted (an initramfs): use no-pivot" },
};

/** Undefined: the errno and the detail say it all. */
export function adviceFor(order: Order, code: string): string | undefined {
  if (order.order === "write_file") {
    const path = String(order.args.path);
    if (code === "EBUSY" && path.endsWith("/cgroup.subtree_control"))
      return "a cgroup above the container's has processes of its own, which cgroup v2 allows at the leaves alone";
    if (code === "EBUSY" && path.includes("memory.")) return "more is in use than the new limit allows";
  }
  if (order.order === "write_proc" && code === "ENOENT" && String(order.args.path).includes("/attr/"))
    return "the profile is not loaded";
  return BY_ORDER[order.order]?.[code] ?? GENERAL[code];
}
