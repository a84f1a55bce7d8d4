/** Containers in their pod's virtual machine: made there by its guest, and followed from here by a process that stands for each. */
import { killCgroup, MonitorLost, type Plan } from "@berth/kernel";
import { cgroupCreation } from "@berth/runtime";
import type { oci } from "@berth/spec";
import {
  type PodMachine,
  refreshNetwork,
  releaseStorage,
  shareContainer,
  standInPlan,
  unshareContainer,
} from "@berth/vm";
import { removeCgroup } from "../../cgroups.ts";
import { resourcesOf } from "../../container/resources.ts";
import { containerDir, type CriContext } from "../../context.ts";
import { podNamespaces, shmPath } from "../../sandbox/namespaces.ts";
import type { Container, ContainerRecord } from "../../store/records.ts";
import type { Creation, ExecCall, RuntimeKind } from "../kind.ts";
import { inVmsWords } from "./errors.ts";
import type { Machines } from "./machines.ts";
import { releaseDevices, takeDevices } from "./devices.ts";
import { fitMachine } from "./size.ts";

const SIGKILL = 9;
/** Until a stand-in has heard of what its guest said it has killed. */
const HEARD_MS = 10_000;

type ContainerVerbs = Pick<
  RuntimeKind,
  "plan" | "signal" | "kill" | "release" | "exec" | "update" | "stats" | "detail"
>;

export function vmContainers(machines: Machines): ContainerVerbs {
  const of = (record: ContainerRecord): PodMachine => machines.of(record.sandboxId);
  const told = <T>(record: ContainerRecord, verb: string, work: () => Promise<T>): Promise<T> =>
    machines.timed(record.sandboxId, verb, () => inVmsWords(work));
  return {
    plan: (context, creation) => {
      const { record } = creation.container;
      return told(record, "create", () => planInGuest(context, of(record), creation));
    },
    signal: (_context, { record }, signal) => told(record, "kill", () => of(record).runtime.signal(record.id, signal)),
    kill: (context, container) => kill(context, machines, container),
    release: (context, record) => machines.timed(record.sandboxId, "delete", () => release(context, machines, record)),
    exec: (context, { record }, _spec, process) =>
      told(record, "exec", () => exec(context, of(record), record, process)),
    update: (context, { record }, linux, merged, signal) =>
      told(record, "update", async () => {
        const machine = of(record);
        await fitMachine(context, machine, record.sandboxId, { id: record.id, resources: merged });
        await machine.runtime.update(record.id, resourcesOf(context, linux), { signal });
      }),
    stats: (context, record) =>
      machines.asked(context, record.sandboxId, ({ runtime }) =>
        told(record, "stats", () => runtime.stats(record.id, containerDir(context, record.id))),
      ),
    detail: (context, record) =>
      machines.asked(context, record.sandboxId, ({ runtime }) =>
        runtime.detail(record.id, containerDir(context, record.id)),
      ),
  };
}

const seccompCache = (context: CriContext): string => `${context.paths.root}/seccomp`;

/** Makes the container in its guest, parked; answers the plan of the process that stands for it here. */
async function planInGuest(context: CriContext, machine: PodMachine, creation: Creation): Promise<Plan> {
  const { container, rootfs, sandbox } = creation;
  const { record } = container;
  const { id } = record;
  const { tty: terminal, stdin } = record.config;
  await fitMachine(context, machine, record.sandboxId);
  // CNI may have given the pod an interface since its machine was started.
  if (sandbox.record.netns !== undefined) await refreshNetwork(context.hand, machine, sandbox.record.netns);
  const own = await takeDevices(context, machine, id, creation.spec);
  const shm = shmPath(context, sandbox.record.id, podNamespaces(sandbox.record.config));
  const warn = (message: string): void => context.log.warn({ container: id }, message);
  const spec = await shareContainer(context, machine, { id, spec: own, rootfs, shm, warn });
  const last = await machine.runtime.create({
    id,
    spec,
    terminal,
    stdin,
    directory: containerDir(context, id),
    seccompCache: seccompCache(context),
    warn,
  });
  return standInPlan(last, { terminal, cgroup: cgroupCreation(record.cgroupPath, context.host), parks: true });
}

/** In the guest, whose end the stand-in then hears of; that one is killed too where it has nobody to hear it from. */
async function kill(context: CriContext, machines: Machines, container: Container): Promise<void> {
  const { record, link } = container;
  const machine = machines.findAnswering(record.sandboxId);
  let heard = false;
  if (machine) {
    try {
      heard = (await machine.runtime.kill(record.id)) && record.phase === "running";
    } catch (error) {
      context.log.warn({ container: record.id, err: error }, "the guest does not end a container; it is given up");
      machines.giveUp(record.sandboxId);
    }
  }
  if (!heard || !(await endedSoon(container))) await ignoreLost(async () => void (await link?.kill(0, SIGKILL)));
}

async function endedSoon({ ended }: Container): Promise<boolean> {
  const { promise, resolve } = Promise.withResolvers<boolean>();
  const timer = setTimeout(resolve, HEARD_MS, false);
  try {
    return await Promise.race([Promise.resolve(ended).then(() => true), promise]);
  } finally {
    clearTimeout(timer);
  }
}

async function ignoreLost(work: () => Promise<void>): Promise<void> {
  try {
    await work();
  } catch (error) {
    if (!(error instanceof MonitorLost)) throw error;
  }
}

/** Everything of a container's in its guest, where that still answers, and of its share. Idempotent. */
async function release(context: CriContext, machines: Machines, record: ContainerRecord): Promise<void> {
  const machine = machines.find(record.sandboxId);
  const answering = machines.findAnswering(record.sandboxId);
  try {
    await answering?.runtime.release(record.id);
    if (answering) await releaseStorage(answering, record.id);
    if (answering) await releaseDevices(context, answering, record.id);
    if (answering) await fitMachine(context, answering, record.sandboxId, { id: record.id, resources: undefined });
  } catch (error) {
    // What cannot be given back there goes with the machine.
    context.log.debug({ container: record.id, err: error }, "a container's remains stay in its guest");
  }
  if (machine) await unshareContainer(context.hand, machine, record.id);
  await killCgroup(record.cgroupPath, context.host);
  await removeCgroup(context, record);
}

async function exec(
  context: CriContext,
  machine: PodMachine,
  { id }: ContainerRecord,
  process: oci.Process,
): Promise<ExecCall> {
  const call = await machine.runtime.exec({
    id,
    process,
    directory: containerDir(context, id),
    seccompCache: seccompCache(context),
    drainMs: context.config.execDrainMs,
  });
  return {
    plan: standInPlan(call.last, { terminal: process.terminal === true, parks: false }),
    told: (work) => call.told(work),
    [Symbol.asyncDispose]: () => call[Symbol.asyncDispose](),
  };
}
