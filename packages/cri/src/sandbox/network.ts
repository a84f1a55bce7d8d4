/** A pod's network: what CNI is told about it. */
import { cri } from "@berth/spec";
import { type AttachRequest, type Capabilities, kubernetesArgs, type PortMapping } from "@berth/network";
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
    capabilities: capabilitiesOf(record.config),
  };
}

/** What plugins that declare the capability are told, as containerd tells it. InvalidArgument for what cannot be. */
export function capabilitiesOf(config: cri.PodSandboxConfig): Capabilities {
  const { annotations, dnsConfig, linux } = config;
  const bandwidth = bandwidthOf(annotations);
  return {
    portMappings: portMappings(config),
    ...(bandwidth && { bandwidth }),
    ...(dnsConfig && {
      dns: { servers: dnsConfig.servers, searches: dnsConfig.searches, options: dnsConfig.options },
    }),
    ...(linux?.cgroupParent && { cgroupPath: linux.cgroupParent }),
    ...(Object.keys(annotations).length > 0 && { "io.kubernetes.cri.pod-annotations": annotations }),
  };
}

/** The kubelet passes the limits on as the pod's annotations alone. Bursts as containerd gives them. */
function bandwidthOf(annotations: Readonly<Record<string, string>>): Capabilities["bandwidth"] {
  const limit = (direction: "ingress" | "egress"): number | undefined => {
    const name = `kubernetes.io/${direction}-bandwidth`;
    const text = annotations[name];
    if (text === undefined) return undefined;
    const bits = quantity(text);
    if (bits === undefined)
      throw invalid(`annotations["${name}"]: ${JSON.stringify(text)} is not a quantity such as 10M (bits a second)`);
    if (bits < LEAST_BANDWIDTH || bits > MOST_BANDWIDTH)
      throw invalid(`annotations["${name}"]: ${text} is not within 1k and 1P (bits a second)`);
    return bits;
  };
  const [ingressRate, egressRate] = [limit("ingress"), limit("egress")];
  if (ingressRate === undefined && egressRate === undefined) return undefined;
  return {
    ...(ingressRate !== undefined && { ingressRate, ingressBurst: MOST_BURST }),
    ...(egressRate !== undefined && { egressRate, egressBurst: MOST_BURST }),
  };
}

const LEAST_BANDWIDTH = 1e3;
const MOST_BANDWIDTH = 1e15;
const MOST_BURST = 0xffff_ffff;
const DECIMAL = ["", "k", "M", "G", "T", "P", "E"];
const BINARY = ["", "Ki", "Mi", "Gi", "Ti", "Pi", "Ei"];

/** Kubernetes' quantities, rounded up to a whole number; undefined: it is none. */
function quantity(text: string): number | undefined {
  const [, number, exponent, suffix = ""] =
    /^([+-]?(?:\d+\.?\d*|\.\d+))(?:[eE]([+-]?\d+)|([numkMGTPE]|[KMGTPE]i))?$/.exec(text) ?? [];
  if (number === undefined) return undefined;
  const small = ["n", "u", "m"].indexOf(suffix);
  const [decimal, binary] = [DECIMAL.indexOf(suffix), BINARY.indexOf(suffix)];
  const factor = small >= 0 ? 1000 ** (small - 3) : decimal >= 0 ? 1000 ** decimal : 1024 ** binary;
  return Math.ceil(Number(number) * (exponent === undefined ? factor : 10 ** Number(exponent)));
}

/** A pod's addresses, the one that is shown as its IP first; "cni": as the plugins have them. */
export function preferred(ips: readonly string[], preference: "ipv4" | "ipv6" | "cni"): string[] {
  const first = preference === "cni" ? undefined : ips.find((ip) => ip.includes(":") === (preference === "ipv6"));
  return first === undefined ? [...ips] : [first, ...ips.filter((ip) => ip !== first)];
}

/** Only mappings with a host port reach the plugins (a container port alone is information). */
function portMappings(config: cri.PodSandboxConfig): PortMapping[] {
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
