/** What machines are made with, and where each is. */
import type { Hand, HostFacts } from "@berth/kernel";
import type { Cache } from "../factory/cache.ts";
import type { Factory } from "../factory/factory.ts";
import type { IdleMachine } from "./idle.ts";

export { guestSocket as relaySocket } from "../hypervisor/machine.ts";

export type MachineCache = Cache<IdleMachine>;

export interface VmHost {
  readonly hand: Hand;
  readonly host: HostFacts;
  /** Each machine has a directory there, by its pod's id. */
  readonly machines: string;
  /** Where berth-vm build-image has put kernel and initramfs. */
  readonly image: string;
  /** The program; undefined: Kata's agent has none to hold a pod's PID namespace. */
  readonly bosun?: string | undefined;
  /** Undefined: every machine boots. */
  readonly factory?: Factory | undefined;
  /** Undefined: no machine is started before its pod is there. */
  readonly cache?: MachineCache | undefined;
  readonly log: (level: "debug" | "info" | "warn" | "error", message: string) => void;
}

/** A program of a machine, each in a directory of its own with its monitor. */
export type ProgramName = "hypervisor" | "relay" | ShareServer;
/** virtiofsd for volumes, which the node may change at any time, and for root file systems, which nobody but the guest does. */
export type ShareServer = "virtiofsd" | "roots";
export const PROGRAMS: readonly ProgramName[] = ["hypervisor", "relay", "virtiofsd", "roots"];

export const machineDirectory = ({ machines }: Pick<VmHost, "machines">, id: string): string => `${machines}/${id}`;
export const programDirectory = (machine: string, name: ProgramName): string => `${machine}/${name}`;
export const programLog = (machine: string, name: ProgramName): string => `${machine}/${name}.log`;
export const virtiofsSocket = (machine: string, server: ShareServer = "virtiofsd"): string =>
  `${machine}/${server === "roots" ? "roots" : "virtiofs"}.sock`;
export const stateFile = (machine: string): string => `${machine}/machine.json`;
/** What berthd changes, and its view that virtiofsd serves: nothing can be made at its top from the guest. */
export const shareWritable = (machine: string): string => `${machine}/rw`;
export const shareServed = (machine: string): string => `${machine}/ro`;

export const SHARE_TAG = "berthShared";
/** The same directory, of which the guest keeps what it has read. */
export const ROOTS_TAG = "berthRoots";
export const GUEST_ROOTS = "/run/berth/roots";
/** In the guest. */
export const GUEST_SHARE = "/run/berth/shared";
export const GUEST_SERVE = "/run/berth/serve.sock";
export const GUEST_SHM = "/run/berth/shm";
export const GUEST_CONTAINERS = "/run/berth/c";
export const guestContainer = (id: string): string => `${GUEST_CONTAINERS}/${id}`;
