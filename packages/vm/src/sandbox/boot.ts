/** A machine's programs, up to a hypervisor whose machine runs: booted, or copied from a template. */
import { chown, readFile } from "node:fs/promises";
import { type HostFacts, type MonitorLink, O, type Order } from "@berth/kernel";
import type { VmSettings } from "../configuration/settings.ts";
import type { Template } from "../factory/store.ts";
import { AGENT_SHARE_TAG } from "../agent/storage.ts";
import type { GuestFiles } from "../hypervisor/choose.ts";
import { type Accelerator, hypervisorOf } from "../hypervisor/drivers.ts";
import {
  COPY_MEMORY_FD,
  COPY_STATE_FD,
  type Hypervisor,
  type Machine,
  type Share,
  type Vm,
} from "../hypervisor/machine.ts";
import { VmError } from "../errors.ts";
import { guestFacts, type GuestWords } from "./guest.ts";
import { helperWords, type Helpers, helpersOf, watchHelpers } from "./helpers.ts";
import { ROOTS_TAG, SHARE_TAG, type ShareServer, virtiofsSocket, type VmHost } from "./host.ts";
import { launch, type Launched } from "./launch.ts";
import type { ProgramPlace } from "./programs.ts";
import { startVirtiofsd } from "./virtiofsd.ts";

export interface Start {
  readonly settings: VmSettings;
  readonly accelerator: Accelerator;
  readonly hypervisor: Hypervisor;
  readonly machine: Machine;
  /** Of the hypervisor; its helpers are in the same cgroup. */
  readonly place: ProgramPlace;
  /** The hypervisor's user; undefined: root. */
  readonly owner: number | undefined;
  readonly signal: AbortSignal | undefined;
  readonly onStep?: ((step: string) => void) | undefined;
}

/** A machine that runs. */
export interface Running {
  readonly link: MonitorLink;
  readonly control: Vm;
  readonly helpers: Helpers;
  /** Rejects when one of its programs ends, with what it said last. */
  readonly failed: Promise<never>;
}

/** Rejects with VmError, or the signal's reason; the machine's programs are for removeMachine or endPrograms to end. */
export async function startPrograms(vm: VmHost, start: Start, template?: Template): Promise<Running> {
  const { machine, hypervisor } = start;
  const { control, link, failed, startRelay } = await (template
    ? launchCopy(vm, start, template)
    : launchWhole(vm, start));
  try {
    await allOrFirst([Promise.race([run(control, machine, template), failed]), startRelay()]);
    const helpers = await watchHelpers(machine.directory, helpersOf(hypervisor, machine), { link, vm: control });
    const helperFailed = helpers.failed.then(async (end): Promise<never> => {
      throw new VmError("Hypervisor", await helperWords(machine.directory, end));
    });
    const either = Promise.race([failed, helperFailed]);
    either.catch(() => {});
    return { link, control, helpers, failed: either };
  } catch (error) {
    control.close();
    link.close();
    throw error;
  }
}

/** Shares have no state that a copy could read: they come behind it. */
async function run(control: Vm, { shares }: Machine, template: Template | undefined): Promise<void> {
  await control.boot();
  if (template) for (const share of shares) await control.template?.addShare(share);
}

/** Of a copy's guest, which need not be asked. */
export const factsOf = async ({ guest }: Template): Promise<HostFacts> =>
  guestFacts(JSON.parse(await readFile(guest, "utf8")) as GuestWords);

/** Ends the connections; the machine runs on. */
export function letGo({ link, control, helpers }: Omit<Running, "failed">): void {
  helpers.close();
  control.close();
  link.close();
}

async function launchWhole(vm: VmHost, start: Start): Promise<Launched> {
  const { hypervisor, machine, place, signal, onStep } = start;
  if (machine.shares.length > 0) onStep?.("start virtiofsd");
  await startShares(vm, start);
  onStep?.("start the hypervisor");
  return await launch(vm, { directory: machine.directory, hypervisor, machine, place, signal });
}

async function launchCopy(vm: VmHost, start: Start, template: Template): Promise<Launched> {
  const { settings, accelerator, machine, place, signal, onStep } = start;
  onStep?.("copy the template");
  // virtiofsd reads and writes the guest's memory: it must be the same for both.
  const kind = machine.shares.length > 0 ? "shared" : "private";
  const [launched] = await allOrFirst([
    launch(vm, {
      directory: machine.directory,
      hypervisor: hypervisorOf(settings, accelerator, kind),
      machine: { ...machine, shares: [] },
      place: { ...place, own: [...copyOrders(template, kind), ...(place.own ?? [])] },
      signal,
    }),
    startShares(vm, start),
  ]);
  return launched;
}

/** As Promise.all, but with the first failure not before all have ended: what they start is theirs no more. */
export async function allOrFirst<T extends readonly unknown[]>(
  work: T,
): Promise<{ -readonly [K in keyof T]: Awaited<T[K]> }> {
  await Promise.allSettled(work);
  return await Promise.all(work);
}

const [MEMORY_SLOT, STATE_SLOT] = [60, 61] as const;

/** The hypervisor's process opens what it copies before anybody can take it away, and what it copies counts as its pod's. */
function copyOrders({ memory, state }: Template, kind: "shared" | "private"): Order[] {
  return [
    kind === "shared"
      ? { order: "copy_memory", args: { from: memory, to: "", slot: MEMORY_SLOT } }
      : { order: "open", args: { slot: MEMORY_SLOT, path: memory, flags: BigInt(O.RDWR) } },
    { order: "open", args: { slot: STATE_SLOT, path: state, flags: BigInt(O.RDONLY) } },
    { order: "hand_over", args: { slot: MEMORY_SLOT, fd: COPY_MEMORY_FD } },
    { order: "hand_over", args: { slot: STATE_SLOT, fd: COPY_STATE_FD } },
  ];
}

/** Cached by the configuration's words; but root file systems, which by its default the guest would read anew for every program that is started. */
export function sharesOf({ hypervisor }: VmSettings, directory: string, agent: GuestFiles["agent"]): Share[] {
  if (hypervisor.shared_fs !== "virtio-fs") return [];
  const own = (tag: string, server: ShareServer): Share => ({
    tag,
    socket: virtiofsSocket(directory, server),
    queueSize: hypervisor.virtio_fs_queue_size,
    cacheSize: hypervisor.virtio_fs_cache_size,
  });
  if (agent !== undefined) return [own(AGENT_SHARE_TAG, "virtiofsd")];
  const volumes = own(SHARE_TAG, "virtiofsd");
  return hypervisor.virtio_fs_cache === "auto" ? [volumes, own(ROOTS_TAG, "roots")] : [volumes];
}

export const serverOf = ({ tag }: Share): ShareServer => (tag === ROOTS_TAG ? "roots" : "virtiofsd");

/** Returns when all listen: a hypervisor does not wait for them. */
async function startShares(vm: VmHost, { settings, machine, place, owner, signal }: Start): Promise<void> {
  const { cgroup } = place;
  await Promise.all(
    machine.shares.map(async (share) => {
      await startVirtiofsd(vm, machine.directory, serverOf(share), settings, { cgroup }, signal);
      if (owner !== undefined) await chown(share.socket, owner, owner);
    }),
  );
}
