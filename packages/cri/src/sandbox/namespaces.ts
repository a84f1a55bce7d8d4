/** A pod's namespaces: made in a forked worker, configured from inside, then pinned by bind mounts. No process stays. */
import { mkdir, rm, writeFile } from "node:fs/promises";
import { cri, type oci } from "@berth/spec";
import {
  CLONE,
  NO_SLOT,
  O,
  type Order,
  type Plan,
  type MonitorLink,
  MonitorLost,
  connectMonitor,
  idMapText,
  sysctlFile,
} from "@berth/kernel";
import type { CriContext } from "../context.ts";
import { sandboxDir } from "../context.ts";
import { invalid } from "../errors.ts";
import { lastMapped, rootOnHost, usernsOf, type UsernsMaps } from "./userns.ts";
import type { SandboxRecord } from "../store/records.ts";

const { NamespaceMode } = cri;

/** Bytes; what Docker and containerd give a pod's /dev/shm. */
export const SHM_SIZE = 64 << 20;
const PROC_SLOT = 0;
const SHM_SLOT = 1;
const MOUNT_ATTR_NOSUID_NODEV_NOEXEC = 0x2n | 0x4n | 0x8n;

/** Let a pod bind low ports and send ICMP echo without capabilities, as containerd 2 does by default; a group must be mapped. */
export const podSysctls = (
  { config }: CriContext,
  { userns }: Pick<PodNamespaces, "userns">,
): Readonly<Record<string, string>> => ({
  ...(config.unprivilegedPorts && { "net.ipv4.ip_unprivileged_port_start": "0" }),
  ...(config.unprivilegedIcmp && { "net.ipv4.ping_group_range": `0 ${userns ? lastMapped(userns.gids) : 2147483647}` }),
});

export interface PodNamespaces {
  readonly hostNetwork: boolean;
  readonly hostIpc: boolean;
  readonly userns: UsernsMaps | undefined;
}

export function podNamespaces(config: cri.PodSandboxConfig): PodNamespaces {
  const options = config.linux?.securityContext?.namespaceOptions;
  for (const kind of ["network", "ipc"] as const) {
    const mode = options?.[kind] ?? NamespaceMode.POD;
    if (mode !== NamespaceMode.POD && mode !== NamespaceMode.NODE) {
      throw invalid(
        `linux.security_context.namespace_options.${kind}: ${cri.NamespaceModeSchema.value[mode]?.name ?? mode} is not a mode of a pod; use POD or NODE`,
      );
    }
  }
  return {
    hostNetwork: options?.network === NamespaceMode.NODE,
    hostIpc: options?.ipc === NamespaceMode.NODE,
    userns: usernsOf(config),
  };
}

export const netnsPath = (context: CriContext, id: string): string => `${context.paths.netns}/berth-${id.slice(0, 20)}`;
export const ipcPath = (context: CriContext, id: string): string => `${sandboxDir(context, id)}/ns/ipc`;
export const usernsPath = (context: CriContext, id: string): string => `${sandboxDir(context, id)}/ns/user`;
export const utsPath = (context: CriContext, id: string): string => `${sandboxDir(context, id)}/ns/uts`;
/** The host's /dev/shm belongs to the host's IPC namespace. */
export const shmPath = (context: CriContext, id: string, ns: PodNamespaces): string =>
  ns.hostIpc ? "/dev/shm" : `${sandboxDir(context, id)}/shm`;

/** Makes and pins a pod's namespaces, and its /dev/shm. */
export async function makeNamespaces(context: CriContext, record: SandboxRecord, signal: AbortSignal): Promise<void> {
  const ns = podNamespaces(record.config);
  if (ns.userns) await makeInUserns(context, record, { ...ns, userns: ns.userns }, signal);
  else await context.hand.run(namespacePlan(context, record, ns), { signal });
}

const namespaceFlags = (ns: PodNamespaces): bigint =>
  (ns.hostNetwork ? 0n : CLONE.NEWNET | CLONE.NEWUTS) | (ns.hostIpc ? 0n : CLONE.NEWIPC);

function directoryOrders(context: CriContext, id: string, ns: PodNamespaces): Order[] {
  const dir = sandboxDir(context, id);
  return [
    { order: "mkdir", args: { path: dir, mode: 0o711, existOk: 1, parents: 1 } },
    { order: "mkdir", args: { path: `${dir}/ns`, mode: 0o711, existOk: 1, parents: 0 } },
    ...(ns.hostIpc ? [] : shmOrders(`${dir}/shm`, rootOnHost(ns.userns))),
  ];
}

/** What is set from inside, by a process that is root there. */
function settingOrders(context: CriContext, config: cri.PodSandboxConfig, ns: PodNamespaces): Order[] {
  const own: Order[] = ns.hostNetwork
    ? []
    : [
        { order: "hostname", args: { hostname: hostnameOf(config), domainname: "" }, because: "hostname" },
        { order: "link_up", args: { name: "lo" } },
      ];
  return [...own, ...sysctlOrders(config, ns, ns.hostNetwork ? {} : podSysctls(context, ns))];
}

const openProc: Order = {
  order: "open",
  args: { slot: PROC_SLOT, path: "/proc", flags: BigInt(O.PATH | O.DIRECTORY) },
};

/**
 * The namespaces must belong to the user namespace, and only who is outside of it may pin them: so a process makes them, waits,
 * and ends when its namespaces are pinned.
 */
async function makeInUserns(
  context: CriContext,
  record: SandboxRecord,
  ns: PodNamespaces & { readonly userns: UsernsMaps },
  signal: AbortSignal,
): Promise<void> {
  const { id, config } = record;
  await context.hand.run({ orders: directoryOrders(context, id, ns) }, { signal });
  const dir = makerDir(context, id);
  await mkdir(dir, { mode: 0o700 });
  const { uids, gids } = ns.userns;
  const maker: Order[] = [
    openProc,
    {
      order: "clone",
      args: {
        flags: CLONE.NEWUSER | namespaceFlags(ns),
        cgroupSlot: NO_SLOT,
        uidMap: idMapText(uids),
        gidMap: idMapText(gids),
        denySetgroups: 0,
      },
      because: "linux.security_context.namespace_options.userns_options",
    },
    ...settingOrders(context, config, ns),
    { order: "park", args: {} },
    { order: "reap", args: {} },
  ];
  const { pid } = await context.hand.monitor({ dir, plan: { orders: maker } }, { signal });
  const link = await connectMonitor(dir);
  try {
    await pinFrom(context, id, ns, pid);
  } finally {
    await endMaker(link);
    await rm(dir, { recursive: true, force: true });
  }
}

const makerDir = (context: CriContext, id: string): string => `${sandboxDir(context, id)}/ns/maker`;

/** One that a crash of berthd has left parked. */
export async function stopMaker(context: CriContext, id: string): Promise<void> {
  const link = await connectMonitor(makerDir(context, id)).catch((error: unknown) => {
    if (error instanceof MonitorLost) return undefined;
    throw error;
  });
  if (link) await endMaker(link);
}

async function endMaker(link: MonitorLink): Promise<void> {
  const { exited } = link;
  await link.kill(0, SIGKILL);
  await exited;
  link.close();
}

const SIGKILL = 9;
const MS_BIND = 0x1000n;

async function pinFrom(context: CriContext, id: string, ns: PodNamespaces, pid: number): Promise<void> {
  const pins: [string, string][] = [["user", usernsPath(context, id)]];
  if (!ns.hostNetwork) pins.push(["uts", utsPath(context, id)], ["net", netnsPath(context, id)]);
  if (!ns.hostIpc) pins.push(["ipc", ipcPath(context, id)]);
  for (const [, path] of pins) await writeFile(path, "", { mode: 0o444, flag: "wx" });
  const orders = pins.map(([name, target]): Order => ({
    order: "mount",
    args: { source: `/proc/${pid}/ns/${name}`, target, fstype: "", flags: MS_BIND, data: "" },
  }));
  await context.hand.run({ orders });
}

function namespacePlan(context: CriContext, { id, config }: SandboxRecord, ns: PodNamespaces): Plan {
  const flags = namespaceFlags(ns);
  const orders = [...directoryOrders(context, id, ns), openProc];
  if (flags !== 0n)
    orders.push({ order: "unshare", args: { flags }, because: "linux.security_context.namespace_options" });
  orders.push(...settingOrders(context, config, ns));
  if (!ns.hostNetwork) {
    orders.push({ order: "pin_ns", args: { name: "uts", path: utsPath(context, id) } });
    orders.push({ order: "pin_ns", args: { name: "net", path: netnsPath(context, id) } });
  }
  if (!ns.hostIpc) orders.push({ order: "pin_ns", args: { name: "ipc", path: ipcPath(context, id) } });
  return { orders };
}

function shmOrders(path: string, { uid, gid }: { uid: number; gid: number }): Order[] {
  const options = ["mode=1777", `size=${SHM_SIZE}`, ...(uid + gid > 0 ? [`uid=${uid}`, `gid=${gid}`] : [])];
  return [
    { order: "mkdir", args: { path, mode: 0o711, existOk: 1, parents: 0 } },
    {
      order: "fs_mount",
      args: {
        slot: SHM_SLOT,
        fstype: "tmpfs",
        source: "shm",
        options,
        attrs: MOUNT_ATTR_NOSUID_NODEV_NOEXEC,
        fdKeys: [],
        fdSlots: [],
      },
      because: "/dev/shm",
    },
    { order: "attach_host", args: { slot: SHM_SLOT, target: path } },
  ];
}

/** Kubernetes allows both separators in a sysctl's name (sysctl.d(5)). */
function sysctlOrders(
  config: cri.PodSandboxConfig,
  ns: PodNamespaces,
  defaults: Readonly<Record<string, string>>,
): Order[] {
  const wanted = config.linux?.sysctls ?? {};
  const namespaces = namespacesForSysctls(ns);
  const orders: Order[] = [];
  for (const [name, value] of Object.entries(wanted)) {
    const file = sysctlFile(name, namespaces);
    if ("error" in file) throw invalid(`linux.sysctls["${name}"]: ${file.error}`);
    orders.push(sysctlOrder(file.path, value, `linux.sysctls["${name}"]`));
  }
  for (const [name, value] of Object.entries(defaults)) {
    if (name in wanted) continue;
    orders.unshift(sysctlOrder(`sys/${name.replaceAll(".", "/")}`, value, "default"));
  }
  return orders;
}

function namespacesForSysctls(ns: PodNamespaces): ReadonlySet<oci.NamespaceType> {
  const types: oci.NamespaceType[] = [];
  if (!ns.hostNetwork) types.push("network", "uts");
  if (!ns.hostIpc) types.push("ipc");
  return new Set(types);
}

const sysctlOrder = (path: string, value: string, because: string): Order => ({
  order: "write_proc",
  args: { slot: PROC_SLOT, path, data: Buffer.from(value) },
  because,
});

/** The kernel's limit is 64 bytes; the kubelet has truncated the pod's name to 63. */
export const hostnameOf = (config: cri.PodSandboxConfig): string =>
  config.hostname || (config.metadata?.name ?? "").slice(0, 63);

/** Takes back what namespacePlan makes, and the pod's directory with all that is in it; every order of it is idempotent. */
export function namespaceRemoval(context: CriContext, id: string): Plan {
  const dir = sandboxDir(context, id);
  return {
    orders: [
      { order: "unpin", args: { path: netnsPath(context, id) } },
      { order: "unpin", args: { path: utsPath(context, id) } },
      { order: "unpin", args: { path: ipcPath(context, id) } },
      { order: "unpin", args: { path: usernsPath(context, id) } },
      { order: "unmount", args: { path: `${dir}/shm`, flags: 2n } },
      { order: "remove_tree", args: { path: dir } },
    ],
  };
}
