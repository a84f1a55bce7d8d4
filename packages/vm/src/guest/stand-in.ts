/** The process of this node's that stands for one in a guest. */
import { type MonitorRequest, NO_SLOT, O, type Order, type Plan } from "@berth/kernel";
import { joinOrders } from "../network/namespace.ts";

/** Which counter marks the end of a stand-in as a kill for memory. */
export const standInOom = (directory: string): NonNullable<MonitorRequest["oom"]> => ({
  file: `${directory}/oom`,
  key: "oom_kill",
});

export interface StandIn {
  readonly terminal: boolean;
  /** On the host, for a container's; a further process's is in its monitor's. */
  readonly cgroup?: { readonly orders: readonly Order[]; readonly slot: number | undefined };
  /** A pinned network namespace that it is in: who asks for the network of the container's process finds the machine's. Undefined: the node's. */
  readonly netns?: string | undefined;
  /** Whether it waits to be started: a container's does. */
  readonly parks: boolean;
}

const ROOT_SLOT = 0;
const SIZE = { rows: 24, columns: 80 } as const;

/** The plan of a process of this node's that stands for one in a guest; its terminal is of the node's own devpts. */
export function standInPlan(last: Order, { terminal, cgroup, netns, parks }: StandIn): Plan {
  const root: Order = { order: "open", args: { slot: ROOT_SLOT, path: "/", flags: BigInt(O.PATH | O.DIRECTORY) } };
  return {
    orders: [
      ...(cgroup?.orders ?? []),
      ...(netns === undefined ? [] : joinOrders(netns)),
      ...(terminal ? [root] : []),
      {
        order: "clone",
        args: { flags: 0n, cgroupSlot: cgroup?.slot ?? NO_SLOT, uidMap: "", gidMap: "", denySetgroups: 0 },
      },
      { order: "setsid", args: {} },
      ...(terminal ? [{ order: "console", args: { root: ROOT_SLOT, ...SIZE, bindConsole: 0 } } as const] : []),
      ...(parks ? [{ order: "park", args: {} } as const] : []),
      last,
    ],
  };
}
