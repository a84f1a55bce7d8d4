/** The files that a pod's containers share: /etc/hosts, /etc/hostname and /etc/resolv.conf. */
import { chown, mkdir, readFile, writeFile } from "node:fs/promises";
import type { cri } from "@berth/spec";
import type { CriContext } from "../context.ts";
import { sandboxDir } from "../context.ts";
import type { SandboxRecord } from "../store/records.ts";
import { hostnameOf, podNamespaces } from "./namespaces.ts";
import { rootOnHost } from "./userns.ts";

export const podFile = (context: CriContext, id: string, name: "hosts" | "hostname" | "resolv.conf"): string =>
  `${sandboxDir(context, id)}/${name}`;

export async function writePodFiles(context: CriContext, record: SandboxRecord): Promise<void> {
  await mkdir(sandboxDir(context, record.id), { recursive: true, mode: 0o711 });
  const { hostNetwork } = podNamespaces(record.config);
  const hostname = hostNetwork ? await ownFile("/etc/hostname", "") : `${hostnameOf(record.config)}\n`;
  const hosts = await ownFile("/etc/hosts", "127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost ip6-loopback\n");
  const files = { hostname, hosts, "resolv.conf": await resolvConf(record.config.dnsConfig) } as const;
  const { uid, gid } = rootOnHost(podNamespaces(record.config).userns);
  for (const [name, text] of Object.entries(files)) {
    const path = `${sandboxDir(context, record.id)}/${name}`;
    await writeFile(path, text, { mode: 0o644 });
    if (uid + gid > 0) await chown(path, uid, gid);
  }
}

/** resolv.conf(5); without a configuration of its own the pod gets the host's. */
export async function resolvConf(dns: cri.DNSConfig | undefined): Promise<string> {
  if (!dns || (dns.servers.length === 0 && dns.searches.length === 0 && dns.options.length === 0))
    return await ownFile("/etc/resolv.conf", "");
  const lines: string[] = [];
  if (dns.searches.length > 0) lines.push(`search ${dns.searches.join(" ")}`);
  for (const server of dns.servers) lines.push(`nameserver ${server}`);
  if (dns.options.length > 0) lines.push(`options ${dns.options.join(" ")}`);
  return `${lines.join("\n")}\n`;
}

async function ownFile(path: string, otherwise: string): Promise<string> {
  try {
    return await readFile(path, "utf8");
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === "ENOENT") return otherwise;
    throw error;
  }
}
