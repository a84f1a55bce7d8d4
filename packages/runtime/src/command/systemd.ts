/** --systemd-cgroup: the container's cgroup is a unit of systemd's, which is there before the container and goes after it. */
import { spawn, type ChildProcess } from "node:child_process";
import { once } from "node:events";
import {
  cgroupRemoval,
  DBusError,
  startScope,
  stopScope,
  SystemdManager,
  updateScope,
  type Front,
  type HostFacts,
  type SystemdPlace,
} from "@berth/kernel";
import type { oci } from "@berth/spec";
import type { ContainerRecord } from "../state/record.ts";
import type { Creation } from "./creation.ts";
import { CommandError } from "./failure.ts";

/** Runs `make` with the container's unit started. Throws CommandError; then the unit is gone again. */
export async function inUnit<T>(
  { bundle, host }: Creation,
  unit: SystemdPlace,
  front: Front,
  make: () => T,
): Promise<T> {
  return await withManager(async (manager) => {
    const holder = hold();
    await once(holder, "spawn");
    // Where this fails there is no unit of ours: one of that name is another container's.
    await startScope(manager, {
      place: unit,
      pids: [holder.pid ?? 0],
      host,
      resources: bundle.spec.linux?.resources,
      annotations: bundle.spec.annotations,
    }).catch(async (error: unknown) => {
      await end(holder);
      throw error;
    });
    try {
      const made = make();
      await end(holder);
      return made;
    } catch (error) {
      await end(holder);
      await stopScope(manager, unit);
      front.run(cgroupRemoval(unit.path, host));
      throw error;
    }
  });
}

/**
 * systemd takes no scope without a process, and the container's own is not there yet. bosun waits for a plan that never
 * comes, in a few kilobytes: this process itself could be killed by the container's memory limit.
 */
function hold(): ChildProcess {
  return spawn(`/proc/${process.ppid}/exe`, ["run"], { stdio: ["pipe", "ignore", "ignore"] });
}

async function end(holder: ChildProcess): Promise<void> {
  if (holder.exitCode !== null || holder.signalCode !== null) return;
  holder.kill("SIGKILL");
  await once(holder, "exit");
}

/** Before the cgroup's files are written: systemd would set them back. */
export async function updateUnit(
  { berth }: ContainerRecord,
  resources: oci.LinuxResources,
  host: HostFacts,
): Promise<void> {
  const { unit } = berth;
  if (unit !== undefined) await withManager((manager) => updateScope(manager, unit, resources, host));
}

export async function removeUnit({ berth }: ContainerRecord): Promise<void> {
  const { unit } = berth;
  if (unit !== undefined) await withManager((manager) => stopScope(manager, unit));
}

async function withManager<T>(work: (manager: SystemdManager) => Promise<T>): Promise<T> {
  try {
    const manager = await SystemdManager.connect();
    try {
      return await work(manager);
    } finally {
      manager.close();
    }
  } catch (error) {
    throw error instanceof DBusError ? new CommandError(`systemd: ${error.message}`) : error;
  }
}
