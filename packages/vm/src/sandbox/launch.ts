/** A hypervisor is started and connected to: for a pod's machine, and for one that becomes a template. */
import { mkdir, readFile, rename, writeFile } from "node:fs/promises";
import type { MonitorLink, Order } from "@berth/kernel";
import type { VmSettings } from "../configuration/settings.ts";
import { VmError } from "../errors.ts";
import type { Hypervisor, Machine, Vm } from "../hypervisor/machine.ts";
import { relaySocket, stateFile, type VmHost } from "./host.ts";
import { execOrder, failsWith, type ProgramPlace, startProgram } from "./programs.ts";

/** What a later berthd must know: machine.json. */
export interface MachineState {
  readonly settings: VmSettings;
  readonly accelerator: "kvm" | "tcg";
  readonly cgroup: string;
  /** Where its processes were before a pod took it, while some may be there still. */
  readonly formerCgroup?: string;
  /** Undefined: it was not started, or is not ready for a pod yet. */
  readonly machine?: Machine;
  /** Its hypervisor is in a network namespace of its own, and not in its pod's. */
  readonly apart?: boolean;
}

/** Makes the machine's directory too. */
export async function writeState(directory: string, state: MachineState): Promise<void> {
  await mkdir(directory, { recursive: true, mode: 0o700 });
  await writeFile(`${stateFile(directory)}.new`, JSON.stringify(state));
  await rename(`${stateFile(directory)}.new`, stateFile(directory));
}

export async function readState(directory: string): Promise<MachineState | undefined> {
  try {
    return JSON.parse(await readFile(stateFile(directory), "utf8")) as MachineState;
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === "ENOENT") return undefined;
    throw error;
  }
}

export interface Launch {
  readonly directory: string;
  readonly hypervisor: Hypervisor;
  readonly machine: Machine;
  readonly place: ProgramPlace;
  readonly signal: AbortSignal | undefined;
}

export interface Launched {
  readonly link: MonitorLink;
  readonly control: Vm;
  /** Rejects when the hypervisor ends, with what it said last. */
  readonly failed: Promise<never>;
  /** The way to the guest, where the hypervisor is none itself. Returns when it can be asked for. */
  readonly startRelay: () => Promise<void>;
}

/** Returns when the hypervisor takes orders. */
export async function launch(vm: VmHost, { directory, hypervisor, machine, place, signal }: Launch): Promise<Launched> {
  const program = hypervisor.program(machine);
  const link = await startProgram(vm, directory, "hypervisor", execOrder(program), place, signal);
  const failed = failsWith(directory, "hypervisor", link);
  failed.catch(() => {});
  const control = await Promise.race([connectControl(hypervisor, machine, signal), failed]);
  return {
    link,
    control,
    failed,
    startRelay: async () => {
      const channel = hypervisor.channel(machine);
      if (channel.by !== "relay") return;
      const args = { channel: channel.channel, listen: relaySocket(directory) };
      const end: Order = { order: "relay", args };
      const relay = await startProgram(vm, directory, "relay", end, { cgroup: place.cgroup }, signal);
      relay.close();
    },
  };
}

export async function connectControl(hypervisor: Hypervisor, machine: Machine, signal?: AbortSignal): Promise<Vm> {
  const limit = AbortSignal.timeout(CONTROL_MS);
  try {
    return await hypervisor.connect(machine, signal ? AbortSignal.any([signal, limit]) : limit);
  } catch (error) {
    if (error !== limit.reason) throw error;
    throw new VmError("Hypervisor", `${hypervisor.name} did not listen for orders within ${CONTROL_MS / 1000} s`);
  }
}

const CONTROL_MS = 30_000;
