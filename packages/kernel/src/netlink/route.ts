/** Interfaces, addresses, routes and neighbours: asked for and set by rtnetlink(7). */
import { addressBytes, addressText, familyOf, macBytes, macText } from "./address.ts";
import {
  attribute,
  nested,
  netlinkMessage,
  parseAttributes,
  parseMessages,
  textAttribute,
  textOf,
  u32,
} from "./message.ts";

const RTM = {
  NEWLINK: 16,
  DELLINK: 17,
  GETLINK: 18,
  NEWADDR: 20,
  GETADDR: 22,
  NEWROUTE: 24,
  GETROUTE: 26,
  NEWNEIGH: 28,
  GETNEIGH: 30,
} as const;
export const NLM = { DUMP: 0x300, REPLACE: 0x100, EXCL: 0x200, CREATE: 0x400 } as const;
const IFLA = { ADDRESS: 1, IFNAME: 3, MTU: 4, LINK: 5, LINKINFO: 18 } as const;
const IFA = { ADDRESS: 1, LOCAL: 2, BROADCAST: 4, FLAGS: 8 } as const;
const RTA = { DST: 1, OIF: 4, GATEWAY: 5, PRIORITY: 6, PREFSRC: 7, METRICS: 8, TABLE: 15 } as const;
const NDA = { DST: 1, LLADDR: 2 } as const;
const RTAX_MTU = 2;
const IFF_UP = 1;
const RT_TABLE_MAIN = 254;
const RTN_UNICAST = 1;
const RTPROT_BOOT = 3;
const RT_SCOPE_LINK = 253;
const NUD_PERMANENT = 0x80;
/** Addresses are used at once, without looking for others that have them. */
const IFA_F_NODAD = 0x02;
/** struct ifinfomsg, ifaddrmsg, rtmsg, ndmsg. */
const [IFINFO, IFADDR, RTMSG, NDMSG] = [16, 8, 12, 12] as const;

export interface Link {
  readonly index: number;
  readonly name: string;
  readonly mac: string;
  readonly mtu: number;
  readonly isUp: boolean;
  /** ARPHRD_*: 1 is Ethernet, 772 loopback. */
  readonly type: number;
  /** "veth", "macvlan" …; "" for a device of hardware, or one that does not say. */
  readonly kind: string;
}

export interface Address {
  readonly index: number;
  readonly address: string;
  readonly prefix: number;
  /** RT_SCOPE_*: 0 is global, 253 link, 254 host. */
  readonly scope: number;
  readonly broadcast?: string | undefined;
}

export interface Route {
  readonly index: number;
  /** undefined: the default route. */
  readonly destination?: { readonly address: string; readonly prefix: number } | undefined;
  readonly gateway?: string | undefined;
  readonly source?: string | undefined;
  readonly scope: number;
  /** RTPROT_*: 2 is the kernel's own, that comes with an address. */
  readonly protocol: number;
  /** AF_INET or AF_INET6. */
  readonly family: number;
  readonly priority?: number | undefined;
  readonly mtu?: number | undefined;
}

export interface Neighbour {
  readonly index: number;
  readonly address: string;
  readonly mac: string;
}

const dump = (type: number, size: number): Buffer => netlinkMessage(type, NLM.DUMP, Buffer.alloc(size));

/** Each is asked for by one message, and answered by many. */
export const linksRequest = (): Buffer => dump(RTM.GETLINK, IFINFO);
export const addressesRequest = (): Buffer => dump(RTM.GETADDR, IFADDR);
export const routesRequest = (): Buffer => dump(RTM.GETROUTE, RTMSG);
export const neighboursRequest = (): Buffer => dump(RTM.GETNEIGH, NDMSG);

export function parseLinks(bytes: Uint8Array): Link[] {
  return ofType(bytes, RTM.NEWLINK).map((body) => {
    const attributes = parseAttributes(body.subarray(IFINFO));
    const info = attributes.get(IFLA.LINKINFO);
    return {
      index: body.readInt32LE(4),
      name: textOf(attributes.get(IFLA.IFNAME)),
      mac: macText(attributes.get(IFLA.ADDRESS) ?? Buffer.alloc(0)),
      mtu: attributes.get(IFLA.MTU)?.readUInt32LE(0) ?? 0,
      isUp: (body.readUInt32LE(8) & IFF_UP) !== 0,
      type: body.readUInt16LE(2),
      kind: info ? textOf(parseAttributes(info).get(1)) : "",
    };
  });
}

export function parseAddresses(bytes: Uint8Array): Address[] {
  return ofType(bytes, RTM.NEWADDR).flatMap((body) => {
    const attributes = parseAttributes(body.subarray(IFADDR));
    const own = attributes.get(IFA.LOCAL) ?? attributes.get(IFA.ADDRESS);
    const broadcast = attributes.get(IFA.BROADCAST);
    if (!own) return [];
    return [
      {
        index: body.readUInt32LE(4),
        address: addressText(own),
        prefix: body.readUInt8(1),
        scope: body.readUInt8(3),
        broadcast: broadcast && addressText(broadcast),
      },
    ];
  });
}

/** Of the main table; what is multicast, local or unreachable is left out. */
export function parseRoutes(bytes: Uint8Array): Route[] {
  return ofType(bytes, RTM.NEWROUTE).flatMap((body) => {
    const attributes = parseAttributes(body.subarray(RTMSG));
    const table = attributes.get(RTA.TABLE)?.readUInt32LE(0) ?? body.readUInt8(4);
    const index = attributes.get(RTA.OIF)?.readUInt32LE(0);
    if (table !== RT_TABLE_MAIN || body.readUInt8(7) !== RTN_UNICAST || index === undefined) return [];
    const text = (type: number): string | undefined => {
      const value = attributes.get(type);
      return value && addressText(value);
    };
    const destination = text(RTA.DST);
    const metrics = attributes.get(RTA.METRICS);
    return [
      {
        index,
        destination: destination === undefined ? undefined : { address: destination, prefix: body.readUInt8(1) },
        gateway: text(RTA.GATEWAY),
        source: text(RTA.PREFSRC),
        scope: body.readUInt8(6),
        protocol: body.readUInt8(5),
        family: body.readUInt8(0),
        priority: attributes.get(RTA.PRIORITY)?.readUInt32LE(0),
        mtu: metrics && parseAttributes(metrics).get(RTAX_MTU)?.readUInt32LE(0),
      },
    ];
  });
}

/** Those that somebody has set for good. */
export function parsePermanentNeighbours(bytes: Uint8Array): Neighbour[] {
  return ofType(bytes, RTM.NEWNEIGH).flatMap((body) => {
    const attributes = parseAttributes(body.subarray(NDMSG));
    const [address, mac] = [attributes.get(NDA.DST), attributes.get(NDA.LLADDR)];
    if ((body.readUInt16LE(8) & NUD_PERMANENT) === 0 || !address || mac?.length !== 6) return [];
    return [{ index: body.readInt32LE(4), address: addressText(address), mac: macText(mac) }];
  });
}

const ofType = (bytes: Uint8Array, type: number): Buffer[] =>
  parseMessages(bytes)
    .filter((message) => message.type === type)
    .map(({ body }) => body);

export interface LinkChange {
  readonly name?: string;
  readonly mtu?: number;
  readonly up?: boolean;
  readonly mac?: string;
}

export function setLink(index: number, { name, mtu, up, mac }: LinkChange): Buffer {
  const fixed = Buffer.alloc(IFINFO);
  fixed.writeInt32LE(index, 4);
  if (up !== undefined) {
    fixed.writeUInt32LE(up ? IFF_UP : 0, 8);
    fixed.writeUInt32LE(IFF_UP, 12);
  }
  return netlinkMessage(RTM.NEWLINK, 0, fixed, [
    ...(name === undefined ? [] : [textAttribute(IFLA.IFNAME, name)]),
    ...(mtu === undefined ? [] : [attribute(IFLA.MTU, u32(mtu))]),
    ...(mac === undefined ? [] : [attribute(IFLA.ADDRESS, macBytes(mac))]),
  ]);
}

/** A macvtap device above another (bridge mode), whose packets are read and written at /dev/tapINDEX. */
export function addMacvtap(name: string, below: number, mac: string): Buffer {
  const [INFO_KIND, INFO_DATA, MACVLAN_MODE, MODE_BRIDGE] = [1, 2, 1, 4] as const;
  return netlinkMessage(RTM.NEWLINK, NLM.CREATE | NLM.EXCL, Buffer.alloc(IFINFO), [
    textAttribute(IFLA.IFNAME, name),
    attribute(IFLA.LINK, u32(below)),
    attribute(IFLA.ADDRESS, macBytes(mac)),
    nested(IFLA.LINKINFO, [
      textAttribute(INFO_KIND, "macvtap"),
      nested(INFO_DATA, [attribute(MACVLAN_MODE, u32(MODE_BRIDGE))]),
    ]),
  ]);
}

export function addAddress({ index, address, prefix, scope, broadcast }: Address): Buffer {
  const fixed = Buffer.alloc(IFADDR);
  fixed.writeUInt8(familyOf(address), 0);
  fixed.writeUInt8(prefix, 1);
  fixed.writeUInt8(IFA_F_NODAD, 2);
  fixed.writeUInt8(scope, 3);
  fixed.writeUInt32LE(index, 4);
  const bytes = addressBytes(address);
  return netlinkMessage(RTM.NEWADDR, NLM.CREATE | NLM.REPLACE, fixed, [
    attribute(IFA.LOCAL, bytes),
    attribute(IFA.ADDRESS, bytes),
    ...(broadcast === undefined ? [] : [attribute(IFA.BROADCAST, addressBytes(broadcast))]),
  ]);
}

export function removeAddress({ index, address, prefix }: Pick<Address, "index" | "address" | "prefix">): Buffer {
  const fixed = Buffer.alloc(IFADDR);
  fixed.writeUInt8(familyOf(address), 0);
  fixed.writeUInt8(prefix, 1);
  fixed.writeUInt32LE(index, 4);
  return netlinkMessage(RTM_DELADDR, 0, fixed, [attribute(IFA.LOCAL, addressBytes(address))]);
}

const RTM_DELADDR = 21;

export function addRoute(route: Route): Buffer {
  const { index, destination, gateway, source, scope, family, priority, mtu } = route;
  const fixed = Buffer.alloc(RTMSG);
  fixed.writeUInt8(family, 0);
  fixed.writeUInt8(destination?.prefix ?? 0, 1);
  fixed.writeUInt8(RT_TABLE_MAIN, 4);
  fixed.writeUInt8(RTPROT_BOOT, 5);
  fixed.writeUInt8(gateway === undefined && scope === 0 ? RT_SCOPE_LINK : scope, 6);
  fixed.writeUInt8(RTN_UNICAST, 7);
  return netlinkMessage(RTM.NEWROUTE, NLM.CREATE | NLM.REPLACE, fixed, [
    ...(destination === undefined ? [] : [attribute(RTA.DST, addressBytes(destination.address))]),
    attribute(RTA.OIF, u32(index)),
    ...(gateway === undefined ? [] : [attribute(RTA.GATEWAY, addressBytes(gateway))]),
    ...(source === undefined ? [] : [attribute(RTA.PREFSRC, addressBytes(source))]),
    ...(priority === undefined ? [] : [attribute(RTA.PRIORITY, u32(priority))]),
    ...(mtu === undefined ? [] : [nested(RTA.METRICS, [attribute(RTAX_MTU, u32(mtu))])]),
  ]);
}

export function addNeighbour({ index, address, mac }: Neighbour): Buffer {
  const fixed = Buffer.alloc(NDMSG);
  fixed.writeUInt8(familyOf(address), 0);
  fixed.writeInt32LE(index, 4);
  fixed.writeUInt16LE(NUD_PERMANENT, 8);
  return netlinkMessage(RTM.NEWNEIGH, NLM.CREATE | NLM.REPLACE, fixed, [
    attribute(NDA.DST, addressBytes(address)),
    attribute(NDA.LLADDR, macBytes(mac)),
  ]);
}
