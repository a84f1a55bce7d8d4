/** What changes in a pod's network while its machine runs: interfaces that come are plugged, and addresses and routes follow. */
import type { Hand } from "@berth/kernel";
import { type Link, linksRequest, parseLinks } from "@berth/kernel/netlink";
import { VmError } from "../errors.ts";
import type { PodMachine } from "../sandbox/machine.ts";
import { nicRates } from "../hypervisor/rates.ts";
import { bringTaps } from "./apart.ts";
import { configureGuestNetwork } from "./guest.ts";
import { askNetwork, linksOf, type PodInterface, podInterfaces, redirect } from "./host.ts";

/** How long the guest may take to have a new interface. */
const APPEAR_MS = 30_000;

/** What the pod's network was when it was looked at last; of one machine one after the other. */
const running = new WeakMap<PodMachine, Promise<string | undefined>>();

/** Ids of devices by the addresses of what they were plugged for, by this daemon. */
const plugged = new WeakMap<PodMachine, Map<string, string>>();

/** Rejects with VmError Unsupported where an interface has come and the hypervisor plugs none. */
export async function refreshNetwork(hand: Hand, machine: PodMachine, netns: string): Promise<void> {
  // With macvtap the pod's own interface has nothing left that a guest could have.
  if (machine.settings.runtime.internetworking_model !== "tcfilter") return;
  // Kata's agent is told of a pod's network once, at its start.
  if (machine.machine.agent !== undefined) return;
  const before = running.get(machine) ?? Promise.resolve(undefined);
  const refreshed = before.then((last) => refresh(hand, machine, netns, last));
  running.set(
    machine,
    refreshed.catch(() => undefined),
  );
  await refreshed;
}

/** The guest's network may be its containers' to change: nothing is said to it when the pod's is as it was. */
async function refresh(hand: Hand, machine: PodMachine, netns: string, last: string | undefined): Promise<string> {
  const interfaces = await podInterfaces(hand, netns);
  const now = JSON.stringify(interfaces);
  if (now === last) return now;
  const inGuest = await guestLinks(machine);
  const missing = interfaces.filter(({ link }) => !inGuest.some(({ mac }) => mac === link.mac));
  for (const own of missing) await plug(hand, machine, netns, own);
  await unplugGone(machine, interfaces);
  if (missing.length > 0 || last !== undefined) await configureGuestNetwork(machine.guest.hand, interfaces);
  return now;
}

const guestLinks = async ({ guest }: PodMachine): Promise<Link[]> => {
  const [answer] = await askNetwork(guest.hand, [], linksRequest());
  return parseLinks(answer ?? new Uint8Array());
};

async function plug(hand: Hand, machine: PodMachine, netns: string, own: PodInterface): Promise<void> {
  const { settings, capabilities, vm, guest } = machine;
  if (!capabilities.hotplugNics || settings.hypervisor.rootless)
    throw new VmError(
      "Unsupported",
      `interface ${own.link.name}: it came while the machine runs, whose hypervisor ${settings.hypervisor.rootless ? "may make no tap (rootless)" : "takes no network devices then"}`,
    );
  const taps = (await linksOf(hand, netns)).map(({ name }) => name);
  const number = firstFree((index) => taps.includes(`tap${index}`));
  const names = (await guestLinks(machine)).map(({ name }) => name);
  const appears = `eth${firstFree((index) => names.includes(`eth${index}`))}`;
  const rates = nicRates(settings);
  const tap = `tap${number}`;
  const queues = Math.max(1, settings.hypervisor.network_queues);
  await vm.addNic({ id: `net${number}`, tap, mac: own.link.mac, queues, vhost: false, ...rates });
  if (machine.apart !== undefined) await bringTaps(hand, machine.apart, netns, [tap]);
  await redirect(hand, netns, [{ ...own, tap }], capabilities.limitsNics ? undefined : rates);
  const known = plugged.get(machine) ?? new Map<string, string>();
  plugged.set(machine, known.set(own.link.mac, `net${number}`));
  const found = { pattern: `/sys/class/net/${appears}`, timeoutMs: APPEAR_MS };
  await guest.hand.run({ orders: [{ order: "find", args: found }] });
}

async function unplugGone(machine: PodMachine, interfaces: readonly PodInterface[]): Promise<void> {
  for (const [mac, id] of plugged.get(machine) ?? []) {
    if (interfaces.some(({ link }) => link.mac === mac)) continue;
    await machine.vm.removeNic(id);
    plugged.get(machine)?.delete(mac);
  }
}

function firstFree(isTaken: (index: number) => boolean): number {
  let index = 0;
  while (isTaken(index)) index++;
  return index;
}
