/** The programs of a machine: each the process of a bosun monitor, which keeps its words and its end. */
import { mkdir } from "node:fs/promises";
import {
  cgroupCreation,
  connectMonitor,
  type HostFacts,
  type MonitorLink,
  MonitorLost,
  NO_SLOT,
  type Order,
  type Plan,
} from "@berth/kernel";
import { VmError } from "../errors.ts";
import { listening } from "../hypervisor/connect.ts";
import type { Program } from "../hypervisor/machine.ts";
import { joinOrders } from "../network/namespace.ts";
import { consoleWords, ENTRY, IS_CONSOLE, tail } from "./console.ts";
import { programDirectory, programLog, type ProgramName, type VmHost } from "./host.ts";

const SIGKILL = 9;
/** A guest can make any of them say something for ever. */
const LOG_BYTES = 1n << 20n;
/** Letters of a log that an error quotes. */
const QUOTED = 2000;

export interface ProgramPlace {
  /** Of the host's hierarchies; made when it is not there. */
  readonly cgroup: string;
  /** A pinned network namespace; undefined: the host's. */
  readonly netns?: string | undefined;
  /** Orders of the process itself, before it waits to be started. */
  readonly own?: readonly Order[];
}

/** `keep`: so many descriptors, from 3, are handed over to it. */
export const execOrder = ({ argv, env, keep = 0 }: Program): Order => ({ order: "exec", args: { argv, env, keep } });

/** Orders of a process that is in its place before it is anything; `end`: what it becomes. */
export function programPlan(end: Order, { cgroup, netns, own = [] }: ProgramPlace, host: HostFacts): Plan {
  const { orders, slot } = cgroupCreation(cgroup, host);
  return {
    orders: [
      { order: "bound_log", args: { bytes: LOG_BYTES } },
      ...orders,
      ...(netns === undefined ? [] : joinOrders(netns)),
      { order: "clone", args: { flags: 0n, cgroupSlot: slot ?? NO_SLOT, uidMap: "", gidMap: "", denySetgroups: 0 } },
      { order: "setsid", args: {} },
      ...own,
      { order: "park", args: {} },
      end,
    ],
  };
}

/** Starts it by the order that its plan ends with. Its link tells when it ends; what it says is in its log. */
export async function startProgram(
  vm: VmHost,
  machine: string,
  name: ProgramName,
  end: Order,
  place: ProgramPlace,
  signal?: AbortSignal,
): Promise<MonitorLink> {
  const dir = programDirectory(machine, name);
  await mkdir(dir, { mode: 0o700 });
  const plan = programPlan(end, place, vm.host);
  await vm.hand.monitor({ dir, plan, logPath: programLog(machine, name) }, signal ? { signal } : {});
  const link = await connectMonitor(dir, plan);
  await link.start();
  return link;
}

/** Undefined: there is none, or it has ended. */
export async function findProgram(machine: string, name: ProgramName): Promise<MonitorLink | undefined> {
  try {
    return await connectMonitor(programDirectory(machine, name));
  } catch (error) {
    if (error instanceof MonitorLost) return undefined;
    throw error;
  }
}

/** Ends it, and returns when it is gone. Idempotent. */
export async function endProgram(machine: string, name: ProgramName): Promise<void> {
  const link = await findProgram(machine, name);
  if (!link) return;
  try {
    await link.kill(0, SIGKILL);
    await link.exited;
  } catch (error) {
    if (!(error instanceof MonitorLost)) throw error;
  } finally {
    link.close();
  }
}

/** Rejects with VmError when the program ends, with what it said last: to be raced against what it should do. */
export async function failsWith(machine: string, name: ProgramName, link: MonitorLink): Promise<never> {
  const { code } = await link.exited;
  throw new VmError("Hypervisor", `${name} ended with status ${code}${await lastWords(machine, name)}`);
}

/** Of a CRI log: time, stream and tag stand before each line. The hypervisor's are its guest's too. */
export async function lastWords(machine: string, name: ProgramName): Promise<string> {
  return `${await loggedWords(machine, name)}${name === "hypervisor" ? await consoleWords(machine) : ""}`;
}

async function loggedWords(machine: string, name: ProgramName): Promise<string> {
  const entries = (await tail(programLog(machine, name))).split("\n");
  const said = entries
    .filter((entry) => name !== "hypervisor" || !IS_CONSOLE.test(entry))
    .map((entry) => entry.replace(ENTRY, ""))
    .join("\n")
    .trim();
  return said === "" ? "" : `: ${said.slice(-QUOTED)}`;
}

const READY_MS = 15_000;

/** As startProgram; returns when the program listens at its socket. */
export async function startListener(
  vm: VmHost,
  machine: string,
  name: ProgramName,
  program: Program,
  place: ProgramPlace,
  socket: string,
  signal: AbortSignal | undefined,
): Promise<void> {
  const link = await startProgram(vm, machine, name, execOrder(program), place, signal);
  const failed = failsWith(machine, name, link);
  failed.catch(() => {});
  const limit = AbortSignal.timeout(READY_MS);
  try {
    await Promise.race([listening(socket, signal ? AbortSignal.any([signal, limit]) : limit), failed]);
  } catch (error) {
    if (error === limit.reason)
      throw new VmError("Hypervisor", `${name} did not listen at ${socket} within ${READY_MS / 1000} s`);
    throw error;
  } finally {
    link.close();
  }
}
