/** Which sysctls belong to a namespace, and so may be set for a container (namespaces(7), sysctl(5)). */
import type { oci } from "@berth/spec";

const IPC = new Set([
  "kernel.msgmax",
  "kernel.msgmnb",
  "kernel.msgmni",
  "kernel.sem",
  "kernel.shmall",
  "kernel.shmmax",
  "kernel.shmmni",
  "kernel.shm_rmid_forced",
  "kernel.msg_next_id",
  "kernel.sem_next_id",
  "kernel.shm_next_id",
  "kernel.auto_msgmni",
]);

export type SysctlFile = { readonly path: string } | { readonly error: string };

/**
 * The file of a sysctl below a procfs ("sys/net/ipv4/ip_forward"), if it belongs to one of the container's own
 * `namespaces`; else why not. Both "net.ipv4.conf.eth0/1.forwarding" and "net/ipv4/conf/eth0.1/forwarding" are understood
 * (sysctl.d(5): the first separator decides).
 */
export function sysctlFile(name: string, namespaces: ReadonlySet<oci.NamespaceType>): SysctlFile {
  const dotted = dottedName(name);
  const parts = dotted.split(".");
  if (parts.length < 2 || parts.some((part) => part === "" || part === "/" || part.split("/").includes(""))) {
    return { error: `${JSON.stringify(name)} is not a sysctl's name, as in "net.ipv4.ip_forward"` };
  }
  // Inside a component "/" stands for the dot of an interface's name ("eth0/1"); only a lone ".." could climb.
  const components = parts.map((part) => part.replaceAll("/", "."));
  if (components.includes("..") || components.includes("."))
    return { error: `${JSON.stringify(name)} climbs out of its directory` };
  const owner = ownerOf(dotted);
  if (owner === undefined)
    return { error: `sysctl ${JSON.stringify(name)} is not namespaced: it would change the host` };
  if (!namespaces.has(owner))
    return { error: `sysctl ${JSON.stringify(name)} needs a ${owner} namespace of the container's own` };
  return { path: `sys/${components.join("/")}` };
}

/** The namespace that a sysctl belongs to, by its name in either notation; undefined: it is the host's. */
export function sysctlNamespace(name: string): oci.NamespaceType | undefined {
  return ownerOf(dottedName(name));
}

/** With "/" first, slashes separate and dots are literal: swap them. */
function dottedName(name: string): string {
  const slash = name.indexOf("/");
  const dot = name.indexOf(".");
  if (slash < 0 || (dot >= 0 && dot < slash)) return name;
  return name.replaceAll(/[./]/g, (separator) => (separator === "." ? "/" : "."));
}

function ownerOf(name: string): oci.NamespaceType | undefined {
  if (IPC.has(name) || name.startsWith("fs.mqueue.")) return "ipc";
  if (name.startsWith("net.")) return "network";
  if (name === "kernel.domainname") return "uts";
  if (name.startsWith("user.")) return "user";
  return undefined;
}
