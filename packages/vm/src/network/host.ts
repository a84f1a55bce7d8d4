/** The host's side of a machine's network: what CNI has made in the pod's namespace, and its way to the machine. */
import { CLONE, type Hand, type Order, O } from "@berth/kernel";
import {
  type Address,
  addIngress,
  addRedirect,
  addressesRequest,
  addTokenBucket,
  type Link,
  linksRequest,
  type Neighbour,
  neighboursRequest,
  parseAddresses,
  parseLinks,
  parsePermanentNeighbours,
  parseRoutes,
  type Route,
  routesRequest,
  setLink,
} from "@berth/kernel/netlink";
import { VmError } from "../errors.ts";
import type { Rates } from "../hypervisor/machine.ts";

const SLOT = 0;
const ARPHRD_ETHER = 1;
const EEXIST = 17;

/** An interface of the pod's, with all that the machine's is to have of it. */
export interface PodInterface {
  readonly link: Link;
  readonly addresses: readonly Address[];
  readonly routes: readonly Route[];
  readonly neighbours: readonly Neighbour[];
  /** Name of the tap at its other end. */
  readonly tap: string;
}

export const inNamespace = (netns: string): Order[] => [
  { order: "open", args: { slot: SLOT, path: netns, flags: BigInt(O.RDONLY) } },
  { order: "setns", args: { slot: SLOT, type: CLONE.NEWNET } },
];

/** Asks the namespace that a plan's first orders bring it to. */
export async function askNetwork(
  hand: Hand,
  enter: readonly Order[],
  ...messages: readonly Uint8Array[]
): Promise<Uint8Array[]> {
  const orders = messages.map((message): Order => ({ order: "netlink", args: { messages: [message], tolerate: [] } }));
  const outputs = await hand.run({ orders: [...enter, ...orders] });
  return messages.map((_, index) => outputs.get(enter.length + index) ?? new Uint8Array());
}

export async function linksOf(hand: Hand, netns: string): Promise<Link[]> {
  const [answer] = await askNetwork(hand, inNamespace(netns), linksRequest());
  return parseLinks(answer ?? new Uint8Array());
}

/** Every Ethernet interface that CNI has put there; those of the machine itself are taps, and left out. */
export async function podInterfaces(hand: Hand, netns: string): Promise<PodInterface[]> {
  const [links, addresses, routes, neighbours] = await askNetwork(
    hand,
    inNamespace(netns),
    linksRequest(),
    addressesRequest(),
    routesRequest(),
    neighboursRequest(),
  );
  const found = parseLinks(links ?? new Uint8Array()).filter(
    ({ type, kind }) => type === ARPHRD_ETHER && !["tun", "macvtap"].includes(kind),
  );
  const of = <T extends { readonly index: number }>(all: readonly T[], index: number): T[] =>
    all.filter((one) => one.index === index);
  return found.map((link, position) => ({
    link,
    addresses: of(parseAddresses(addresses ?? new Uint8Array()), link.index).filter(
      ({ scope, address }) => scope === 0 && !address.startsWith("fe80:"),
    ),
    routes: of(parseRoutes(routes ?? new Uint8Array()), link.index),
    neighbours: of(parsePermanentNeighbours(neighbours ?? new Uint8Array()), link.index),
    tap: `tap${position}`,
  }));
}

/**
 * Where the hypervisor has made its taps: brings them up, with the same packet size, and joins each with its interface both ways.
 * `limits`: in bytes, where the hypervisor does not keep them itself.
 */
export async function redirect(
  hand: Hand,
  netns: string,
  interfaces: readonly PodInterface[],
  limits?: { readonly rx: Rates; readonly tx: Rates },
): Promise<void> {
  if (interfaces.length === 0) return;
  const enter = inNamespace(netns);
  const [answer] = await askNetwork(hand, enter, linksRequest());
  const links = parseLinks(answer ?? new Uint8Array());
  const messages = interfaces.flatMap(({ link, tap }) => {
    const made = links.find(({ name }) => name === tap);
    if (!made) throw new VmError("Hypervisor", `the hypervisor has made no tap ${tap} in ${netns}`);
    return [
      setLink(made.index, { mtu: link.mtu, up: true }),
      addIngress(link.index),
      addRedirect(link.index, made.index),
      addIngress(made.index),
      addRedirect(made.index, link.index),
      // What the guest receives leaves at the tap, and what it sends at the interface.
      ...limit(made.index, limits?.rx),
      ...limit(link.index, limits?.tx),
    ];
  });
  await hand.run({ orders: [...enter, { order: "netlink", args: { messages, tolerate: [EEXIST] } }] });
}

const limit = (index: number, rates: Rates | undefined): Buffer[] =>
  rates !== undefined && rates.bytes.perSecond > 0 ? [addTokenBucket(index, rates.bytes.perSecond)] : [];
