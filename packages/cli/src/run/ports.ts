/** `-p [ip:]hostPort:containerPort[/proto]`, with ranges, as docker's. */
import { cri } from "@berth/spec";
import { isIP } from "node:net";
import { Failure } from "../failure.ts";

export interface Port {
  readonly hostIp: string;
  readonly hostPort: number;
  readonly containerPort: number;
  readonly protocol: cri.Protocol;
}

const { Protocol } = cri;
const PROTOCOLS: Readonly<Record<string, cri.Protocol>> = { tcp: Protocol.TCP, udp: Protocol.UDP, sctp: Protocol.SCTP };
const PORT_MAX = 65535;

/** "127.0.0.1:8080:80/udp", "[::1]:8080:80", "8000-8002:80-82". A port without a host port is refused: the CRI picks none. */
export function parsePorts(text: string): Port[] {
  const fail = (why: string): never => {
    throw new Failure(`-p "${text}": ${why}; use [ip:]hostPort:containerPort[/tcp|udp|sctp]`);
  };
  const [address, protocolName = "tcp", ...more] = text.split("/");
  const protocol = PROTOCOLS[protocolName.toLowerCase()];
  if (protocol === undefined || more.length > 0)
    return fail(`"${[protocolName, ...more].join("/")}" is not a protocol`);
  const match = /^(?:(?:\[([^\]]*)\]|([^:]*)):)?([^:]*):([^:]+)$/.exec(address ?? "");
  if (!match)
    return fail(
      /^\d+(-\d+)?$/.test(address ?? "")
        ? "it has no host port, and none is picked by itself"
        : "it is not a port mapping",
    );
  const hostIp = match[1] ?? match[2] ?? "";
  if (hostIp !== "" && isIP(hostIp) === 0) return fail(`"${hostIp}" is not an IP address`);
  const host = parseRange(match[3] ?? "");
  const container = parseRange(match[4] ?? "");
  if (!host)
    return fail(
      match[3] === ""
        ? "it has no host port, and none is picked by itself"
        : `"${match[3]}" is not a port (1 to ${PORT_MAX})`,
    );
  if (!container) return fail(`"${match[4]}" is not a port (1 to ${PORT_MAX})`);
  if (host.count !== container.count)
    return fail(`the ranges differ in length: ${host.count} and ${container.count} ports`);
  return Array.from({ length: host.count }, (_, index) => ({
    hostIp,
    hostPort: host.first + index,
    containerPort: container.first + index,
    protocol,
  }));
}

function parseRange(text: string): { first: number; count: number } | undefined {
  const match = /^(\d{1,5})(?:-(\d{1,5}))?$/.exec(text);
  if (!match) return undefined;
  const first = Number(match[1]);
  const last = Number(match[2] ?? match[1]);
  return first < 1 || last > PORT_MAX || last < first ? undefined : { first, count: last - first + 1 };
}

/** "0.0.0.0:8080->80/tcp", as `ps` shows it. */
export function formatPort({ hostIp, hostPort, containerPort, protocol }: Port): string {
  const host = hostIp === "" ? "0.0.0.0" : hostIp.includes(":") ? `[${hostIp}]` : hostIp;
  const name = Object.keys(PROTOCOLS).find((key) => PROTOCOLS[key] === protocol) ?? "?";
  return `${host}:${hostPort}->${containerPort}/${name}`;
}
