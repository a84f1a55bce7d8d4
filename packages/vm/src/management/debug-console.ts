/** A shell as root of the guest, outside of its containers: where the image has one and the configuration lets it be used. */
import { randomBytes } from "node:crypto";
import type { Readable, Writable } from "node:stream";
import { connectMonitor, NO_SLOT, O, type Order, OrderError, STREAM } from "@berth/kernel";
import type { VmSettings } from "../configuration/settings.ts";
import { VmError } from "../errors.ts";
import type { Guest } from "../sandbox/guest.ts";
import { guestContainer } from "../sandbox/host.ts";

const SHELL = "/bin/sh";
const SIZE = { rows: 24, columns: 80 };
const ROOT_SLOT = 0;
const SIGKILL = 9;
const ENOENT = 2;
const WITHIN = { timeoutMs: 10_000 };

const PLAN: readonly Order[] = [
  { order: "open", args: { slot: ROOT_SLOT, path: "/", flags: BigInt(O.PATH | O.DIRECTORY) } },
  { order: "clone", args: { flags: 0n, cgroupSlot: NO_SLOT, uidMap: "", gidMap: "", denySetgroups: 0 } },
  { order: "setsid", args: {} },
  { order: "console", args: { root: ROOT_SLOT, ...SIZE, bindConsole: 0 } },
  { order: "park", args: {} },
  {
    order: "exec",
    args: { argv: [SHELL], env: ["PATH=/sbin:/usr/sbin:/bin:/usr/bin", "HOME=/", "TERM=linux"], keep: 0 },
  },
];

export interface DebugConsole {
  readonly keyboard: Writable;
  /** Ends when the shell does. */
  readonly screen: Readable;
  /** Whatever still runs of it. Idempotent. */
  readonly end: () => Promise<void>;
}

/** Rejects with VmError Unsupported that says what to do. */
export async function openDebugConsole({ hand, reach }: Guest, { agent, name }: VmSettings): Promise<DebugConsole> {
  if (!agent.debug_console_enabled)
    throw new VmError(
      "Unsupported",
      `the debug console is off; set debug_console_enabled = true in [agent.kata] beside [hypervisor.${name}] for new pods`,
    );
  const dir = guestContainer(`debug-${randomBytes(4).toString("hex")}`);
  const removal: Order = { order: "remove_tree", args: { path: dir } };
  await hand.run({ orders: [{ order: "mkdir", args: { path: dir, mode: 0o700, existOk: 1, parents: 1 } }] }, WITHIN);
  await hand.monitor({ dir, plan: { orders: PLAN }, terminal: SIZE, stdin: true }, WITHIN);
  const link = await connectMonitor(dir, { orders: PLAN }, reach);
  let ended: Promise<void> | undefined;
  const end = (): Promise<void> => (ended ??= finish());
  const finish = async (): Promise<void> => {
    try {
      await link.kill(0, SIGKILL, WITHIN);
      await link.exited;
      await hand.run({ orders: [removal] }, WITHIN);
    } finally {
      link.close();
    }
  };
  try {
    const [keyboard, screen] = await Promise.all([
      link.attach(0, STREAM.stdin, WITHIN),
      link.attach(0, STREAM.stdout, WITHIN),
    ]);
    await link.start(WITHIN);
    return { keyboard, screen, end };
  } catch (error) {
    await end();
    if (error instanceof OrderError && error.errno === ENOENT)
      throw new VmError(
        "Unsupported",
        "the guest has no shell; make its image by berth-vm build-image --debug-console, and start the pod anew",
        { cause: error },
      );
    throw error;
  }
}
