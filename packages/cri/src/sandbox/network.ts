/** A pod's network: what CNI is told about it. */
import { cri } from "@berth/spec";
import { type AttachRequest, kubernetesArgs, type PortMapping } from "@berth/network";
import type { SandboxRecord } from "../store/records.ts";
import { invalid } from "../errors.ts";

const PROTOCOLS: Readonly<Record<cri.Protocol, PortMapping["protocol"]>> = {
  [cri.Protocol.TCP]: "tcp",
  [cri.Protocol.UDP]: "udp",
  [cri.Protocol.SCTP]: "sctp",
};

/** The attachment that ADD makes and DEL takes back; the same for both, as the CNI specification asks. */
export function attachmentOf(record: SandboxRecord, netns: string): AttachRequest {
  const metadata = record.config.metadata;
  return {
    containerId: record.id,
    netns,
    ifName: "eth0",
    args: kubernetesArgs({
      namespace: metadata?.namespace ?? "",
      name: metadata?.name ?? "",
      id: record.id,
      uid: metadata?.uid ?? "",
    }),
    capabilities: {
      portMappings: portMappings(record.config),
      ...(record.config.dnsConfig ? { dns: record.config.dnsConfig } : {}),
    },
  };
}

/** A pod's addresses, the one that is shown as its IP first; "cni": as the plugins have them. */
export function preferred(ips: readonly string[], preference: "ipv4" | "ipv6" | "cni"): string[] {
  const first = preference === "cni" ? undefined : ips.find((ip) => ip.includes(":") === (preference === "ipv6"));
  return first === undefined ? [...ips] : [first, ...ips.filter((ip) => ip !== first)];
}

/** Only mappings with a host port reach the plugins (a container port alone is information). */
export function portMappings(config: cri.PodSandboxConfig): PortMapping[] {
  const mappings: PortMapping[] = [];
  for (const [index, mapping] of config.portMappings.entries()) {
    if (mapping.hostPort <= 0) continue;
    const protocol = PROTOCOLS[mapping.protocol];
    if (protocol === undefined)
      throw invalid(`port_mappings[${index}].protocol: ${mapping.protocol} is none of TCP, UDP, SCTP`);
    for (const [field, port] of [
      ["host_port", mapping.hostPort],
      ["container_port", mapping.containerPort],
    ] as const) {
      if (port < 1 || port > 65535) throw invalid(`port_mappings[${index}].${field}: ${port} is not a port (1-65535)`);
    }
    mappings.push({
      hostPort: mapping.hostPort,
      containerPort: mapping.containerPort,
      protocol,
      ...(mapping.hostIp ? { hostIP: mapping.hostIp } : {}),
    });
  }
  return mappings;
}
