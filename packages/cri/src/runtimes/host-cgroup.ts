/** What kinds do by a container's cgroup whose containers' processes are the host's own. */
import {
  type CgroupStats,
  killCgroup,
  type MonitorLink,
  MonitorLost,
  oomCounter,
  readCgroupDetail,
  readCgroupStats,
} from "@berth/kernel";
import { updateResources } from "@berth/runtime";
import type { cri } from "@berth/spec";
import { removeCgroup } from "../cgroups.ts";
import { resourcesOf } from "../container/resources.ts";
import type { CriContext } from "../context.ts";
import { countProcesses } from "../metrics/processes.ts";
import type { Container, ContainerRecord } from "../store/records.ts";
import type { ContainerDetail, RuntimeKind } from "./kind.ts";

const SIGKILL = 9;

export const hostCgroup = {
  oom: (context, record) => oomCounter(record.cgroupPath, context.host),
  pidOf: (_context, _record, state) => Promise.resolve(state.pid),
  signal: async (_context, { link }, signal) => {
    if (link) await signalProcess(link, signal);
  },
  kill: killAll,
  update,
  stats: (context, record) => unlessGone<CgroupStats>(readCgroupStats(record.cgroupPath, context.host)),
  detail: (context, record) => unlessGone(detailOf(context, record)),
} satisfies Partial<RuntimeKind>;

async function killAll(context: CriContext, { link, record }: Container): Promise<void> {
  if (link) await signalProcess(link, SIGKILL);
  // A container in a PID namespace that outlives it has more processes than the one its monitor knows.
  if (record.phase !== "exited") await killCgroup(record.cgroupPath, context.host);
}

/** A monitor that has gone meanwhile has seen the process end; its exit is recorded all the same. */
async function signalProcess(link: MonitorLink, signal: number): Promise<void> {
  try {
    await link.kill(0, signal);
  } catch (error) {
    if (!(error instanceof MonitorLost)) throw error;
  }
}

/** Kills what is left (a container without a PID namespace of its own can leave processes) and removes it. */
export async function releaseCgroup(context: CriContext, record: ContainerRecord, before?: () => Promise<void>) {
  await killCgroup(record.cgroupPath, context.host);
  await before?.();
  await removeCgroup(context, record);
}

/** Into the cgroup, and into its unit before: systemd writes what it knows of, which must be all, whenever it likes. */
async function update(
  context: CriContext,
  { record }: Container,
  linux: cri.LinuxContainerResources,
  merged: cri.LinuxContainerResources,
  signal: AbortSignal,
): Promise<void> {
  const { host, systemd } = context;
  const resources = resourcesOf(context, linux);
  if (record.unit) await systemd.update(record.unit, resourcesOf(context, merged), host, signal);
  await context.hand.run(updateResources(record.cgroupPath, resources, host), { signal });
}

async function detailOf({ host }: CriContext, record: ContainerRecord): Promise<ContainerDetail> {
  return { cgroup: await readCgroupDetail(record.cgroupPath, host), processes: await countProcesses(record, host) };
}

/** Of a cgroup's file: the cgroup was removed, before it was opened or after. */
export const isGone = (error: unknown): boolean =>
  ["ENOENT", "ENODEV"].includes((error as NodeJS.ErrnoException).code ?? "");

async function unlessGone<T>(work: Promise<T>): Promise<T | undefined> {
  try {
    return await work;
  } catch (error) {
    if (isGone(error)) return undefined;
    throw error;
  }
}
