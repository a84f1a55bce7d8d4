/** The network a node gets when nobody has configured one. */
import { randomUUID } from "node:crypto";
import { existsSync } from "node:fs";
import { link, mkdir, readFile, rm, writeFile } from "node:fs/promises";
import { join } from "node:path";
import type { Hand } from "@berth/kernel";
import type { Json } from "./conf.ts";
import { loadConfDir } from "./confdir.ts";
import { DEFAULT_CONF_DIR } from "./types.ts";

export const DEFAULT_CONF_FILE = "10-berth.conflist";

/**
 * Tried in this order against the host's routes. Off the beaten track of Docker (172.17/16 on), Podman (10.88/16),
 * libvirt (192.168.122/24), flannel (10.244/16), k3s (10.42/16), kubeadm's services (10.96/12) and home routers.
 */
const SUBNETS = ["10.213.0.0/20", "10.187.64.0/20", "172.29.208.0/20", "192.168.213.0/24", "198.18.213.0/24"];

export interface DefaultNetwork {
  readonly name?: string;
  readonly bridge?: string;
  /** IPv4, CIDR. */
  readonly subnet: string;
  /** Adds the firewall plugin, which opens the FORWARD chain for the pods where the host's policy drops. */
  readonly firewall?: boolean;
  /** Where host-local keeps its leases; default /var/lib/cni/networks. */
  readonly dataDir?: string;
}

/** A bridge with masquerading and hairpin mode, addresses from host-local, host ports by portmap. */
export function defaultConflist(network: DefaultNetwork): Json {
  parseSubnet(network.subnet);
  return {
    cniVersion: "1.0.0",
    name: network.name ?? "berth",
    plugins: [
      {
        type: "bridge",
        bridge: network.bridge ?? "berth0",
        isGateway: true,
        ipMasq: true,
        hairpinMode: true,
        ipam: {
          type: "host-local",
          ranges: [[{ subnet: network.subnet }]],
          routes: [{ dst: "0.0.0.0/0" }],
          ...(network.dataDir === undefined ? {} : { dataDir: network.dataDir }),
        },
      },
      { type: "portmap", capabilities: { portMappings: true }, snat: true },
      ...(network.firewall ? [{ type: "firewall", backend: "iptables" }] : []),
    ],
  };
}

/**
 * Writes the default network into `confDir` unless a valid one is there, or a file that was meant to be one: a mistake in
 * it is for its author to mend. Resolves with the path written, or undefined. Atomic: two daemons at once write one file.
 */
export async function ensureDefault(options: {
  hand: Hand;
  confDir?: string;
  bridge?: string;
  name?: string;
  dataDir?: string;
  routes?: string;
}): Promise<string | undefined> {
  const confDir = options.confDir ?? DEFAULT_CONF_DIR;
  const { networks, problems } = await loadConfDir(confDir);
  if (networks.length > 0 || problems.length > 0) return undefined;
  const bridge = options.bridge ?? "berth0";
  const conf = defaultConflist({
    bridge,
    subnet: freeSubnet(options.routes ?? (await readFile("/proc/net/route", "utf8")), bridge),
    firewall: await forwardDrops(options.hand),
    ...(options.name === undefined ? {} : { name: options.name }),
    ...(options.dataDir === undefined ? {} : { dataDir: options.dataDir }),
  });
  await mkdir(confDir, { recursive: true });
  const path = join(confDir, DEFAULT_CONF_FILE);
  const temporary = join(confDir, `.${DEFAULT_CONF_FILE}.${randomUUID()}`);
  await writeFile(temporary, `${JSON.stringify(conf, null, 2)}\n`, { mode: 0o644, flag: "wx" });
  try {
    // link(2), unlike rename(2), never replaces what somebody else has put there meanwhile.
    await link(temporary, path);
    return path;
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === "EEXIST") return undefined;
    throw error;
  } finally {
    await rm(temporary, { force: true });
  }
}

/** The first subnet that no route of the host overlaps, by /proc/net/route. The bridge's own route does not count: it is what an earlier daemon chose. */
export function freeSubnet(routes: string, bridge: string): string {
  const taken = parseRoutes(routes);
  const own = taken.find((route) => route.device === bridge);
  if (own) return formatSubnet(own);
  for (const candidate of SUBNETS) {
    const subnet = parseSubnet(candidate);
    if (!taken.some((route) => overlap(route, subnet))) return candidate;
  }
  throw new Error(
    `no free subnet for the default cni network: the host routes all of ${SUBNETS.join(", ")}; write a conf list to ${DEFAULT_CONF_DIR} yourself`,
  );
}

interface Subnet {
  readonly base: number;
  readonly mask: number;
}

function overlap(a: Subnet, b: Subnet): boolean {
  const mask = a.mask & b.mask;
  return (a.base & mask) === (b.base & mask);
}

/** /proc/net/route: addresses and masks in hexadecimal, bytes in the host's (little-endian) order. Default routes overlap everything and mean nothing. */
function parseRoutes(text: string): (Subnet & { readonly device: string })[] {
  return text
    .trim()
    .split("\n")
    .slice(1)
    .flatMap((line) => {
      const [device = "", destination = "", , , , , , mask = ""] = line.split(/\s+/);
      const route = { device, base: littleEndian(destination), mask: littleEndian(mask) };
      return route.mask === 0 ? [] : [route];
    });
}

function littleEndian(hex: string): number {
  return Buffer.from(hex, "hex").readInt32LE();
}

function parseSubnet(cidr: string): Subnet {
  const match = /^(\d+)\.(\d+)\.(\d+)\.(\d+)\/(\d+)$/.exec(cidr);
  const [a, b, c, d, bits] = (match ?? []).slice(1).map(Number);
  if (
    a === undefined ||
    b === undefined ||
    c === undefined ||
    d === undefined ||
    bits === undefined ||
    Math.max(a, b, c, d) > 255 ||
    bits < 1 ||
    bits > 30
  ) {
    throw new TypeError(`subnet ${JSON.stringify(cidr)}: must be an IPv4 subnet such as "10.213.0.0/20"`);
  }
  const mask = (-1 << (32 - bits)) | 0;
  return { base: ((a << 24) | (b << 16) | (c << 8) | d) & mask, mask };
}

function formatSubnet(subnet: Subnet): string {
  const bytes = [24, 16, 8, 0].map((shift) => (subnet.base >>> shift) & 255);
  return `${bytes.join(".")}/${Math.clz32(~subnet.mask)}`;
}

/** Docker, among others, sets the FORWARD chain's policy to DROP; a bridge's pods then reach nothing. Without iptables nothing does. */
async function forwardDrops(hand: Hand): Promise<boolean> {
  for (const iptables of ["/usr/sbin/iptables", "/sbin/iptables"]) {
    if (!existsSync(iptables)) continue;
    const result = await hand.spawn({
      argv: [iptables, "-w", "-S", "FORWARD"],
      env: { PATH: "/usr/sbin:/usr/bin:/sbin:/bin" },
    });
    if (result.status === 0) return /^-P FORWARD DROP$/m.test(Buffer.from(result.stdout).toString());
  }
  return false;
}
