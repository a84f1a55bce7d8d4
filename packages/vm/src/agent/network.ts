/** The pod's network as the agent is told of it: interfaces by their MAC, routes, neighbours. */
import type { Neighbour, Route } from "@berth/kernel/netlink";
import { agent, agentTypes } from "@berth/spec/kata";
import type { MessageInitShape } from "@bufbuild/protobuf";
import type { PodInterface } from "../network/host.ts";
import type { AgentCallOptions, AgentClient } from "./client.ts";

/** RTPROT_KERNEL: comes with an address by itself. */
const KERNELS_OWN = 2;
/** RT_SCOPE_HOST: the kernel's own too. */
const SCOPE_HOST = 254;
const NUD_PERMANENT = 0x80;
const AF_INET6 = 10;

/** In Kata's order: interfaces, neighbours, routes. */
export async function configureAgentNetwork(
  client: AgentClient,
  interfaces: readonly PodInterface[],
  options: AgentCallOptions,
): Promise<void> {
  if (interfaces.length === 0) return;
  const { method } = agent.AgentService;
  for (const each of interfaces) await client.call(method.updateInterface, { interface: interfaceOf(each) }, options);
  const neighbours = interfaces.flatMap((own) => own.neighbours.map((each) => neighbourOf(own, each)));
  if (neighbours.length > 0)
    await client.call(method.addARPNeighbors, { neighbors: { ARPNeighbors: neighbours } }, options);
  const routes = interfaces.flatMap((own) => own.routes.filter(isSet).map((each) => routeOf(own, each)));
  await client.call(method.updateRoutes, { routes: { Routes: routes } }, options);
}

export function interfaceOf({ link, addresses }: PodInterface): MessageInitShape<typeof agentTypes.InterfaceSchema> {
  return {
    device: link.name,
    name: link.name,
    IPAddresses: addresses
      .filter(({ scope }) => scope !== SCOPE_HOST)
      .map(({ address, prefix }) => ({ family: familyOf(address), address, mask: String(prefix) })),
    mtu: BigInt(link.mtu),
    hwAddr: link.mac,
  };
}

const isSet = ({ protocol }: Route): boolean => protocol !== KERNELS_OWN;

export function routeOf({ link }: PodInterface, route: Route): MessageInitShape<typeof agentTypes.RouteSchema> {
  const { destination } = route;
  return {
    dest: destination ? `${destination.address}/${destination.prefix}` : "",
    gateway: route.gateway ?? "",
    device: link.name,
    source: route.source ?? "",
    scope: route.scope,
    family: route.family === AF_INET6 ? agentTypes.IPFamily.v6 : agentTypes.IPFamily.v4,
    mtu: route.mtu ?? 0,
  };
}

export function neighbourOf(
  { link }: PodInterface,
  { address, mac }: Neighbour,
): MessageInitShape<typeof agentTypes.ARPNeighborSchema> {
  return {
    toIPAddress: { family: familyOf(address), address },
    device: link.name,
    lladdr: mac,
    state: NUD_PERMANENT,
  };
}

const familyOf = (address: string): agentTypes.IPFamily =>
  address.includes(":") ? agentTypes.IPFamily.v6 : agentTypes.IPFamily.v4;
