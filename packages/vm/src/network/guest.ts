/** The guest's side: the interface of the same MAC gets the name, packet size, addresses, routes and neighbours that CNI gave its pod's. */
import type { Hand, Order } from "@berth/kernel";
import {
  addAddress,
  addNeighbour,
  addRoute,
  type Link,
  linksRequest,
  parseLinks,
  type Route,
  setLink,
} from "@berth/kernel/netlink";
import { VmError } from "../errors.ts";
import { askNetwork, type PodInterface } from "./host.ts";

/** RTPROT_KERNEL: comes with an address by itself. */
const KERNELS_OWN = 2;

export async function configureGuestNetwork(guest: Hand, interfaces: readonly PodInterface[]): Promise<void> {
  if (interfaces.length === 0) return;
  const [answer] = await askNetwork(guest, [], linksRequest());
  const links = parseLinks(answer ?? new Uint8Array());
  const messages = interfaces.flatMap((own) => {
    const found = links.find(({ mac }) => mac === own.link.mac);
    if (!found)
      throw new VmError(
        "Guest",
        `the guest has no interface of address ${own.link.mac} for the pod's ${own.link.name}`,
      );
    return interfaceMessages(own, found);
  });
  await guest.run({ orders: [{ order: "netlink", args: { messages, tolerate: [] } }] });
}

/** Of a machine that has had its network devices before its pod came: `links`, what they are in its guest, in the interfaces' order. */
export function adoptedNetwork(interfaces: readonly PodInterface[], links: readonly Link[]): Order[] {
  const messages = interfaces.flatMap((own, position) => {
    const found = links[position];
    if (!found) throw new VmError("Guest", `the guest has no interface for the pod's ${own.link.name}`);
    return [setLink(found.index, { mac: own.link.mac }), ...interfaceMessages(own, found)];
  });
  return messages.length === 0 ? [] : [{ order: "netlink", args: { messages, tolerate: [] } }];
}

/** `now`: the guest's, as it is. */
export function interfaceMessages(
  { link, addresses, routes, neighbours }: PodInterface,
  { index, name }: Pick<Link, "index" | "name">,
): Buffer[] {
  return [
    // A name can be said only while it is down, even the one that it has.
    setLink(index, { ...(name !== link.name && { name: link.name }), mtu: link.mtu }),
    setLink(index, { up: true }),
    ...addresses.map((address) => addAddress({ ...address, index })),
    ...inOrder(routes).map((route) => addRoute({ ...route, index })),
    ...neighbours.map((neighbour) => addNeighbour({ ...neighbour, index })),
  ];
}

/** A gateway must be on a link before there is a route through it. */
function inOrder(routes: readonly Route[]): Route[] {
  const set = routes.filter(({ protocol }) => protocol !== KERNELS_OWN);
  return [...set.filter(({ gateway }) => gateway === undefined), ...set.filter(({ gateway }) => gateway !== undefined)];
}
