/** A pod's namespaces: made in a forked worker, configured from inside, then pinned by bind mounts. No process stays. */
import { cri, type oci } from "@berth/spec";
import { CLONE, O, type Order, type Plan, sysctlFile } from "@berth/kernel";
import type { CriContext } from "../context.ts";
import { sandboxDir } from "../context.ts";
import { invalid } from "../errors.ts";
import type { SandboxRecord } from "../store/records.ts";

const { NamespaceMode } = cri;

/** Bytes; what Docker and containerd give a pod's /dev/shm. */
const SHM_SIZE = 64 << 20;
const PROC_SLOT = 0;
const SHM_SLOT = 1;
const MOUNT_ATTR_NOSUID_NODEV_NOEXEC = 0x2n | 0x4n | 0x8n;

/** Let a pod bind low ports and send ICMP echo without capabilities, as containerd 2 does by default. */
const podSysctls = ({ config }: CriContext): Readonly<Record<string, string>> => ({
  ...(config.unprivilegedPorts && { "net.ipv4.ip_unprivileged_port_start": "0" }),
  ...(config.unprivilegedIcmp && { "net.ipv4.ping_group_range": "0 2147483647" }),
});

export interface PodNamespaces {
  readonly hostNetwork: boolean;
  readonly hostIpc: boolean;
}

export function podNamespaces(config: cri.PodSandboxConfig): PodNamespaces {
  const options = config.linux?.securityContext?.namespaceOptions;
  if (options?.usernsOptions && options.usernsOptions.mode !== NamespaceMode.NODE) {
    throw invalid(
      "linux.security_context.namespace_options.userns_options: this version of berth makes no user namespaces for pods; the handler's features say so",
    );
  }
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
  };
}

export const netnsPath = (context: CriContext, id: string): string => `${context.paths.netns}/berth-${id.slice(0, 20)}`;
export const ipcPath = (context: CriContext, id: string): string => `${sandboxDir(context, id)}/ns/ipc`;
export const utsPath = (context: CriContext, id: string): string => `${sandboxDir(context, id)}/ns/uts`;
/** The host's /dev/shm belongs to the host's IPC namespace. */
export const shmPath = (context: CriContext, id: string, ns: PodNamespaces): string =>
  ns.hostIpc ? "/dev/shm" : `${sandboxDir(context, id)}/shm`;

/** The plan that makes and pins a pod's namespaces and its /dev/shm. */
export function namespacePlan(context: CriContext, record: SandboxRecord): Plan {
  const { id, config } = record;
  const ns = podNamespaces(config);
  const dir = sandboxDir(context, id);
  const orders: Order[] = [
    { order: "mkdir", args: { path: dir, mode: 0o711, existOk: 1, parents: 1 } },
    { order: "mkdir", args: { path: `${dir}/ns`, mode: 0o711, existOk: 1, parents: 0 } },
    { order: "open", args: { slot: PROC_SLOT, path: "/proc", flags: BigInt(O.PATH | O.DIRECTORY) } },
  ];
  if (!ns.hostIpc) orders.push(...shmOrders(`${dir}/shm`));
  const flags = (ns.hostNetwork ? 0n : CLONE.NEWNET | CLONE.NEWUTS) | (ns.hostIpc ? 0n : CLONE.NEWIPC);
  if (flags !== 0n)
    orders.push({ order: "unshare", args: { flags }, because: "linux.security_context.namespace_options" });
  if (!ns.hostNetwork) {
    orders.push({ order: "hostname", args: { hostname: hostnameOf(config), domainname: "" }, because: "hostname" });
    orders.push({ order: "link_up", args: { name: "lo" } });
  }
  orders.push(...sysctlOrders(config, ns, ns.hostNetwork ? {} : podSysctls(context)));
  if (!ns.hostNetwork) {
    orders.push({ order: "pin_ns", args: { name: "uts", path: utsPath(context, id) } });
    orders.push({ order: "pin_ns", args: { name: "net", path: netnsPath(context, id) } });
  }
  if (!ns.hostIpc) orders.push({ order: "pin_ns", args: { name: "ipc", path: ipcPath(context, id) } });
  return { orders };
}

function shmOrders(path: string): Order[] {
  const options = ["mode=1777", `size=${SHM_SIZE}`];
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

/** Takes back what namespacePlan makes; every order of it is idempotent. */
export function namespaceRemoval(context: CriContext, id: string): Plan {
  const dir = sandboxDir(context, id);
  return {
    orders: [
      { order: "unpin", args: { path: netnsPath(context, id) } },
      { order: "unpin", args: { path: utsPath(context, id) } },
      { order: "unpin", args: { path: ipcPath(context, id) } },
      { order: "unmount", args: { path: `${dir}/shm`, flags: 2n } },
    ],
  };
}
