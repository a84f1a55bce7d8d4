/** What the interfaces of a network namespace have carried (proc(5), /proc/PID/net/dev). */
import { readFile } from "node:fs/promises";
import type { Hand } from "./bosun/hand.ts";
import { O } from "./flags.ts";
import { CLONE } from "./namespaces.ts";

export interface InterfaceUsage {
  readonly name: string;
  readonly rxBytes: bigint;
  readonly rxPackets: bigint;
  readonly rxErrors: bigint;
  readonly rxDropped: bigint;
  readonly txBytes: bigint;
  readonly txPackets: bigint;
  readonly txErrors: bigint;
  readonly txDropped: bigint;
}

/** Bytes; a line is 128. */
const MAX_TEXT = 1 << 20;

/**
 * Of the namespace that process `pid` is in, where it lives; else of the one pinned at `netns`, which costs a fork of bosun.
 * The loopback interface is not listed.
 */
export async function readInterfaces(hand: Hand, netns: string, pid: number | undefined): Promise<InterfaceUsage[]> {
  const text = pid === undefined ? undefined : await ofProcess(pid);
  return parse(text ?? (await ofNamespace(hand, netns)));
}

/** Undefined where the process has gone. */
async function ofProcess(pid: number): Promise<string | undefined> {
  try {
    return await readFile(`/proc/${pid}/net/dev`, "utf8");
  } catch (error) {
    if (["ENOENT", "ESRCH", "EINVAL"].includes((error as NodeJS.ErrnoException).code ?? "")) return undefined;
    throw error;
  }
}

async function ofNamespace(hand: Hand, netns: string): Promise<string> {
  const outputs = await hand.run({
    orders: [
      { order: "open", args: { slot: 0, path: netns, flags: BigInt(O.RDONLY) } },
      { order: "setns", args: { slot: 0, type: CLONE.NEWNET } },
      { order: "open", args: { slot: 1, path: "/proc", flags: BigInt(O.PATH | O.DIRECTORY) } },
      { order: "read_in", args: { root: 1, path: "/self/net/dev", max: MAX_TEXT } },
    ],
  });
  return Buffer.from(outputs.get(3) ?? new Uint8Array()).toString("latin1");
}

/** Two lines of headings, then "name: rx bytes packets errs drop fifo frame compressed multicast, tx bytes packets errs drop …". */
function parse(text: string): InterfaceUsage[] {
  return text.split("\n").flatMap((line) => {
    const [, name, numbers] = /^\s*(\S+):\s*(.*)$/.exec(line) ?? [];
    if (name === undefined || numbers === undefined || name === "lo") return [];
    const values = numbers.trim().split(/\s+/).map(BigInt);
    const at = (index: number): bigint => values[index] ?? 0n;
    return [
      {
        name,
        rxBytes: at(0),
        rxPackets: at(1),
        rxErrors: at(2),
        rxDropped: at(3),
        txBytes: at(8),
        txPackets: at(9),
        txErrors: at(10),
        txDropped: at(11),
      },
    ];
  });
}
