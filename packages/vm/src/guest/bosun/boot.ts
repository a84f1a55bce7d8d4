/** When a guest's kernel began and when its first program served, as the guest tells. */
import { type Hand, O, type Order } from "@berth/kernel";
import type { GuestBoot } from "../runtime.ts";

const ROOT = 0;
const MAX_TEXT = 4096;
const TIMEOUT_MS = 10_000;
/** proc_pid_stat(5): the parent, and when it was started, in hundredths of a second since the boot. */
const [PARENT, STARTED] = [4, 22] as const;
const TICK_NS = 10_000_000;
const MS_NS = 1_000_000n;

/** Rejects with OrderError where the guest does not answer. */
export async function bootOf(hand: Hand): Promise<GuestBoot | undefined> {
  const read = async (...paths: readonly string[]): Promise<string[]> => {
    const orders: Order[] = [
      { order: "open", args: { slot: ROOT, path: "/proc", flags: BigInt(O.PATH | O.DIRECTORY) } },
      ...paths.map((path): Order => ({ order: "read_in", args: { root: ROOT, path, max: MAX_TEXT } })),
    ];
    const outputs = await hand.run({ orders }, { timeoutMs: TIMEOUT_MS });
    return paths.map((_, index) => Buffer.from(outputs.get(index + 1) ?? new Uint8Array()).toString("latin1"));
  };
  const asked = BigInt(Math.round(performance.timeOrigin + performance.now())) * MS_NS;
  // Who carries out a plan is a child of who serves.
  const [uptime = "", own = ""] = await read("/uptime", "/self/stat");
  const upNs = BigInt(Math.round(Number.parseFloat(uptime) * 1e9) || 0);
  const server = field(own, PARENT);
  const [stat = ""] = await read(`/${server}/stat`);
  const kernelAt = asked - upNs;
  const ticks = field(stat, STARTED);
  return upNs > 0n && ticks > 0 ? { kernelAt, servedAt: kernelAt + BigInt(ticks * TICK_NS) } : undefined;
}

/** The name in parentheses may hold anything: state is field 3. */
const field = (stat: string, number: number): number =>
  Number(stat.slice(stat.lastIndexOf(")") + 2).split(" ")[number - 3]) || 0;
