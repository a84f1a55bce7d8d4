/** Disks of a machine that come and go while it runs: plugged with their first user, unplugged with their last. Found again after a restart. */
import { readFile, rename, writeFile } from "node:fs/promises";
import { VmError } from "../errors.ts";
import { diskOptionsOf } from "../hypervisor/choose.ts";
import type { Disk } from "../hypervisor/machine.ts";
import type { PodMachine } from "../sandbox/machine.ts";

/** ACPI tells the guest, which finds its driver; a machine that is emulated takes a while. */
const APPEAR_MS = 60_000;

interface Entry {
  readonly users: readonly string[];
  /** In the guest; "": it is not there yet. */
  readonly device: string;
}
type Ledger = Readonly<Record<string, Entry>>;
type Machine = Pick<PodMachine, "directory" | "settings" | "guest" | "vm">;

/** Of one machine, one after the other: what is plugged is in a file of its directory. */
const turns = new Map<string, Promise<unknown>>();

async function inTurn<T>({ directory }: Machine, work: () => Promise<T>): Promise<T> {
  const turn = (turns.get(directory) ?? Promise.resolve()).catch(() => {}).then(work);
  turns.set(directory, turn);
  try {
    return await turn;
  } finally {
    if (turns.get(directory) === turn) turns.delete(directory);
  }
}

const ledgerFile = (directory: string): string => `${directory}/disks.json`;

async function readLedger({ directory }: Pick<Machine, "directory">): Promise<Ledger> {
  try {
    return JSON.parse(await readFile(ledgerFile(directory), "utf8")) as Ledger;
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === "ENOENT") return {};
    throw error;
  }
}

async function writeLedger({ directory }: Machine, ledger: Ledger): Promise<void> {
  await writeFile(`${ledgerFile(directory)}.new`, JSON.stringify(ledger), { mode: 0o600 });
  await rename(`${ledgerFile(directory)}.new`, ledgerFile(directory));
}

export interface Plugged {
  /** In the guest, as "/dev/vda". */
  readonly device: string;
}

export interface FirstUse {
  /** Before it is plugged for the first time: makes what is not there yet. */
  readonly before?: () => Promise<void>;
  /** When it is there for the first time, with its device: mounts it. What `unset` of releaseDisks unmounts. */
  readonly set?: (device: string) => Promise<void>;
}

/** Where a first use fails, the disk is unplugged again. */
export async function useDisk(machine: Machine, disk: Disk, user: string, first: FirstUse = {}): Promise<Plugged> {
  return await inTurn(machine, async () => {
    const ledger = await readLedger(machine);
    const { users = [], device: known = "" } = ledger[disk.id] ?? {};
    const entry = (device: string): Ledger => ({
      ...ledger,
      [disk.id]: { users: [...new Set([...users, user])], device },
    });
    await writeLedger(machine, entry(known));
    if (known !== "") return { device: known };
    let plugged = false;
    try {
      await first.before?.();
      const place = await machine.vm.addDisk(disk, diskOptionsOf(machine.settings));
      plugged = true;
      const device = "device" in place ? `/dev/${place.device}` : await deviceOf(machine, place.serial);
      await first.set?.(device);
      await writeLedger(machine, entry(device));
      return { device };
    } catch (error) {
      if (plugged) await machine.vm.removeDisk(disk.id).catch(() => {});
      await writeLedger(machine, ledger);
      throw error;
    }
  });
}

/** In the guest, as "/dev/vda"; undefined: it has no such disk. */
export async function deviceOfDisk(machine: Pick<Machine, "directory">, id: string): Promise<string | undefined> {
  return (await readLedger(machine))[id]?.device || undefined;
}

async function deviceOf({ guest }: Machine, serial: string): Promise<string> {
  try {
    const outputs = await guest.hand.run(
      { orders: [{ order: "find_disk", args: { serial, timeoutMs: APPEAR_MS } }] },
      { timeoutMs: 2 * APPEAR_MS },
    );
    return Buffer.from(outputs.get(0) ?? []).toString();
  } catch (error) {
    if ((error as { code?: string }).code !== "ETIMEDOUT") throw error;
    throw new VmError("Guest", `the guest did not find disk ${serial} within ${APPEAR_MS / 1000} s`, { cause: error });
  }
}

/** What `user` has no more; `unset` comes before a disk is unplugged. Idempotent. */
export async function releaseDisks(
  machine: Machine,
  user: string,
  unset: (disk: string) => Promise<void> = () => Promise.resolve(),
): Promise<void> {
  await inTurn(machine, async () => {
    for (;;) {
      const ledger = await readLedger(machine);
      // The last first: a layer outlives what is mounted over it.
      const found = Object.entries(ledger).findLast(([, { users }]) => users.includes(user));
      if (!found) return;
      const [disk, { users, device }] = found;
      const left = users.filter((each) => each !== user);
      if (left.length === 0) {
        await unset(disk);
        if (device !== "") await machine.vm.removeDisk(disk);
      }
      const rest = Object.entries(ledger).map(([id, entry]): [string, Entry] => [
        id,
        id === disk ? { users: left, device } : entry,
      ]);
      await writeLedger(machine, Object.fromEntries(rest.filter(([, entry]) => entry.users.length > 0)));
    }
  });
}
