/**
 * The host's side of a machine's network by macvtap: above each interface of the pod's a device with its address, which the guest's is,
 * and whose packets the hypervisor reads and writes at a file of its own. The interface itself is left without addresses.
 */
import { CLONE, type Hand, O, type Order } from "@berth/kernel";
import { addMacvtap, removeAddress, setLink } from "@berth/kernel/netlink";
import { VmError } from "../errors.ts";
import { inNamespace, linksOf, type PodInterface } from "./host.ts";
import { randomMac } from "./mac.ts";
import { type OpenTap, openTap } from "./open-taps.ts";

const ROOT_SLOT = 0;
const S_IFCHR = 0o020000;
const SYS = "/sys";

/** Makes them, up and with the packet size of what they are above. Rejects with VmError. */
export async function makeMacvtaps(
  hand: Hand,
  netns: string,
  machine: string,
  interfaces: readonly PodInterface[],
): Promise<OpenTap[]> {
  if (interfaces.length === 0) return [];
  const messages = interfaces.flatMap(({ link, addresses, tap }) => [
    ...addresses.map((address) => removeAddress({ ...address, index: link.index })),
    setLink(link.index, { mac: randomMac() }),
    addMacvtap(tap, link.index, link.mac),
  ]);
  const enter = inNamespace(netns);
  await hand.run({ orders: [...enter, { order: "netlink", args: { messages, tolerate: [] } }] });
  const links = await linksOf(hand, netns);
  const made = interfaces.map(({ link, tap }) => {
    const found = links.find(({ name }) => name === tap);
    if (!found) throw new VmError("Hypervisor", `the kernel has made no macvtap device ${tap} in ${netns}`);
    return { tap, index: found.index, mtu: link.mtu };
  });
  const up = made.map(({ index, mtu }) => setLink(index, { mtu, up: true }));
  await hand.run({ orders: [...enter, { order: "netlink", args: { messages: up, tolerate: [] } }] });
  const numbers = await deviceNumbers(hand, enter, made);
  return numbers.map((number, position) =>
    openTap(position, (slot) => openDevice(slot, `/dev/berth-${machine}-${position}`, number)),
  );
}

/** sysfs shows a network namespace's devices to who has mounted it there; names in /dev are the whole host's, and may be another's. */
async function deviceNumbers(
  hand: Hand,
  enter: readonly Order[],
  made: readonly { readonly tap: string; readonly index: number }[],
): Promise<DeviceNumber[]> {
  const own: Order[] = [
    ...enter,
    { order: "unshare", args: { flags: CLONE.NEWNS } },
    { order: "mount", args: { source: "none", target: "/", fstype: "", flags: PRIVATE, data: "" } },
    { order: "mount", args: { source: "sysfs", target: SYS, fstype: "sysfs", flags: 0n, data: "" } },
  ];
  const reads = made.map(({ tap, index }): Order => ({
    order: "read_file",
    args: { path: `${SYS}/class/net/${tap}/tap${index}/dev`, max: 64 },
  }));
  const outputs = await hand.run({ orders: [...own, ...reads] });
  return made.map(({ tap }, position) => {
    const text = Buffer.from(outputs.get(own.length + position) ?? []).toString();
    const [, major, minor] = /^(\d+):(\d+)\n?$/.exec(text) ?? [];
    if (major === undefined || minor === undefined)
      throw new VmError("Hypervisor", `macvtap device ${tap}: the kernel tells no number of its device node`);
    return { major: Number(major), minor: Number(minor) };
  });
}

/** MS_REC | MS_PRIVATE (mount(2)). */
const PRIVATE = 0x44000n;

interface DeviceNumber {
  readonly major: number;
  readonly minor: number;
}

/** Its node is there for as long as it takes to open it: in /dev, as elsewhere devices need not be ones that can be opened. */
const openDevice = (slot: number, path: string, { major, minor }: DeviceNumber): Order[] => [
  { order: "open", args: { slot: ROOT_SLOT, path: "/", flags: BigInt(O.PATH | O.DIRECTORY) } },
  { order: "mkdev", args: { root: ROOT_SLOT, path, mode: S_IFCHR | 0o600, major, minor, uid: 0, gid: 0 } },
  { order: "open", args: { slot, path, flags: BigInt(O.RDWR) } },
  { order: "unlink", args: { path } },
  { order: "close", args: { slot: ROOT_SLOT } },
];
