/** What the processes of a container in its guest hold, counted in the guest's /proc. */
import { O, type Order, type ProcessLook, type ProcessTally, tallyProcesses } from "@berth/kernel";
import type { Guest } from "../../sandbox/guest.ts";
import { believable } from "../believable.ts";

const ROOT = 0;
const TIMEOUT_MS = 10_000;
const MAX_TEXT = 1 << 13;
/** Of a container with more, so many are looked at: each costs two orders. */
const MOST = 1024;

/** One plan for all of them. Those that go meanwhile are not counted. */
export async function countProcesses({ hand }: Guest, pids: readonly number[]): Promise<ProcessTally> {
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
  const looks = some.flatMap((_pid, index): ProcessLook[] => {
    const stat = text(1 + index * 2);
    const descriptors = text(2 + index * 2)
      .split("\0")
      .slice(0, -1);
    return stat === "" ? [] : [{ stat, descriptors }];
  });
  return believable(tallyProcesses(looks, text(1 + some.length * 2)));
}
