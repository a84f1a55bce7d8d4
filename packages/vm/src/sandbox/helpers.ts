/** The programs beside a machine's hypervisor, without which nobody in it or outside can go on: their end is the machine's. */
import { MonitorLost, type MonitorLink, type MonitorState } from "@berth/kernel";
import { VmError } from "../errors.ts";
import type { Hypervisor, Machine, Vm } from "../hypervisor/machine.ts";
import { ROOTS_TAG, type ProgramName } from "./host.ts";
import { findProgram, lastWords } from "./programs.ts";

export interface Helpers {
  /** Resolves when one has ended before its hypervisor did. */
  readonly failed: Promise<HelperEnd>;
  /** They run on. */
  close(): void;
}

export interface HelperEnd {
  readonly name: ProgramName;
  /** Undefined: nobody knows how. */
  readonly state: MonitorState | undefined;
}

/** A hypervisor that neither answers nor has ended within this, in milliseconds, does not count. */
const FOLLOWED_MS = 5_000;

export const helpersOf = (hypervisor: Hypervisor, machine: Machine): ProgramName[] => [
  ...machine.shares.map(({ tag }) => (tag === ROOTS_TAG ? "roots" : "virtiofsd")),
  ...(hypervisor.channel(machine).by === "relay" ? (["relay"] as const) : []),
];

export interface RunningHypervisor {
  readonly link: MonitorLink;
  readonly vm: Vm;
}

/** Rejects with VmError Hypervisor, with the reason, where one has ended already. */
export async function watchHelpers(
  directory: string,
  names: readonly ProgramName[],
  hypervisor: RunningHypervisor,
): Promise<Helpers> {
  const links: MonitorLink[] = [];
  const close = (): void => links.forEach((link) => link.close());
  try {
    for (const name of names) {
      const link = await findProgram(directory, name);
      if (!link) throw new VmError("Hypervisor", await helperWords(directory, { name, state: undefined }));
      links.push(link);
      const state = await link.state();
      if (state.phase === "exited") throw new VmError("Hypervisor", await helperWords(directory, { name, state }));
    }
  } catch (error) {
    close();
    throw error;
  }
  return {
    failed: Promise.race(names.map((name, index) => failure(name, links[index], hypervisor))),
    close,
  };
}

/** Never settles where the hypervisor was the first to end: they follow it, and it tells why. */
async function failure(
  name: ProgramName,
  link: MonitorLink | undefined,
  hypervisor: RunningHypervisor,
): Promise<HelperEnd> {
  const state = await link?.exited.catch(unlessLost);
  if (await hasEnded(hypervisor)) return await new Promise(() => {});
  return { name, state };
}

function unlessLost(error: unknown): undefined {
  if (!(error instanceof MonitorLost)) throw error;
}

/** `directory`: where the machine is now; one that has waited for its pod was elsewhere. */
export async function helperWords(directory: string, { name, state }: HelperEnd): Promise<string> {
  const end = state ? `ended with status ${state.code}` : "is gone, and its monitor with it";
  return `${name} ${end}${await lastWords(directory, name)}`;
}

async function hasEnded({ link, vm }: RunningHypervisor): Promise<boolean> {
  const { promise, resolve } = Promise.withResolvers<boolean>();
  const timer = setTimeout(resolve, FOLLOWED_MS, false);
  link.exited.then(
    () => resolve(true),
    () => resolve(true),
  );
  // One that has begun to end answers no more.
  vm.memoryBytes().then(
    () => resolve(false),
    () => undefined,
  );
  try {
    return await promise;
  } finally {
    clearTimeout(timer);
  }
}
