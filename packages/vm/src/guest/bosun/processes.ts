/** What the processes of a container in its guest hold, counted in the guest's /proc. */
import { O, type Order } from "@berth/kernel";
import type { Guest } from "../../sandbox/guest.ts";
import type { GuestProcesses, TaskState } from "../runtime.ts";

const ROOT = 0;
const TIMEOUT_MS = 10_000;
const MAX_TEXT = 1 << 13;
/** Of a container with more, so many are looked at: each costs two orders. */
const MOST = 1024;

/** Field 3 of /proc/PID/stat (proc(5)). */
const STATES: Readonly<Record<string, TaskState>> = {
  R: "running",
  S: "sleeping",
  I: "sleeping",
  T: "stopped",
  t: "stopped",
  D: "uninterruptible",
};

/** One plan for all of them. Those that go meanwhile are not counted. */
export async function countProcesses({ hand }: Guest, pids: readonly number[]): Promise<GuestProcesses> {
  const some = pids.slice(0, MOST);
  const read = (path: string): Order => ({ order: "read_in", args: { root: ROOT, path, max: MAX_TEXT } });
  const orders: Order[] = [
    { order: "open", args: { slot: ROOT, path: "/proc", flags: BigInt(O.PATH | O.DIRECTORY) } },
    ...some.flatMap((pid): Order[] => [
      read(`/${pid}/stat`),
      { order: "links", args: { pattern: `/proc/${pid}/fd/*` } },
    ]),
    ...(some.length > 0 ? [read(`/${some[0]}/limits`)] : []),
  ];
  const outputs = await hand.run({ orders }, { timeoutMs: TIMEOUT_MS });
  const text = (index: number): string => Buffer.from(outputs.get(index) ?? new Uint8Array()).toString("latin1");
  const states = { running: 0, sleeping: 0, stopped: 0, uninterruptible: 0, iowaiting: 0 };
  const counts = { processes: 0, descriptors: 0, sockets: 0 };
  for (const index of some.keys()) {
    const stat = text(1 + index * 2);
    if (stat === "") continue;
    const targets = text(2 + index * 2)
      .split("\0")
      .slice(0, -1);
    counts.processes++;
    counts.descriptors += targets.length;
    counts.sockets += targets.filter((to) => to.startsWith("socket:")).length;
    // The name in parentheses may hold anything.
    const state = STATES[stat.slice(stat.lastIndexOf(")") + 2, stat.lastIndexOf(")") + 3)];
    if (state) states[state]++;
  }
  const soft = /^Max open files\s+(\d+)/m.exec(text(1 + some.length * 2))?.[1];
  return { ...counts, states, softNofile: soft === undefined ? undefined : BigInt(soft) };
}
