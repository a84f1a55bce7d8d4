/** Containers in their pod's virtual machine: made there by the same plans, and followed from here by a process that stands for each. */
import { readFile, writeFile } from "node:fs/promises";
import {
  cgroupRemoval,
  compileSeccomp,
  connectMonitor,
  guestError,
  killCgroup,
  type MonitorLink,
  MonitorLost,
  NO_SLOT,
  O,
  type Order,
  OrderError,
  type Plan,
  updateResources,
} from "@berth/kernel";
import { cgroupCreation, planContainer, planExec } from "@berth/runtime";
import type { oci } from "@berth/spec";
import { guestContainer, type PodMachine, relaySocket, unmountOrder } from "@berth/vm";
import { removeCgroup } from "../../cgroups.ts";
import { resourcesOf } from "../../container/resources.ts";
import { containerDir, type CriContext } from "../../context.ts";
import type { Container, ContainerRecord } from "../../store/records.ts";
import type { Creation, ExecCall, RuntimeKind } from "../kind.ts";
import { guestCgroup, hostShare, shareContainer } from "./guest-spec.ts";
import { guestStats } from "./guest-stats.ts";
import type { Machines } from "./machines.ts";
import { growMachine } from "./size.ts";

const SIGKILL = 9;
const ENOENT = 2;
/** A guest that hangs must not keep its pod from ending. */
const GUEST_MS = 10_000;
const WITHIN = { timeoutMs: GUEST_MS };

type ContainerVerbs = Pick<
  RuntimeKind,
  "plan" | "oom" | "pidOf" | "signal" | "kill" | "release" | "exec" | "update" | "stats" | "detail"
>;

export function vmContainers(machines: Machines): ContainerVerbs {
  const of = (record: ContainerRecord): PodMachine => machines.of(record.sandboxId);
  return {
    plan: (context, creation) => planInGuest(context, of(creation.container.record), creation),
    oom: (context, { id }) => ({ file: oomFile(context, id), key: "oom_kill" }),
    pidOf: (_context, _record, state) => Promise.resolve(state.pid),
    signal: async (_context, { record }, signal) => {
      await atMonitor(of(record), record.id, async (link) => void (await link.kill(0, signal, WITHIN)));
    },
    kill: (context, container) => kill(context, machines, container),
    release: (context, record) => release(context, machines, record),
    exec: (context, container, _spec, process) => exec(context, of(container.record), container, process),
    update: async (context, { record }, linux, merged, signal) => {
      const machine = of(record);
      const { guest } = machine;
      await growMachine(context, machine, record.sandboxId, { id: record.id, resources: merged });
      await guest.hand.run(updateResources(guestCgroup(record.id), resourcesOf(context, linux), guest.facts), {
        signal,
      });
    },
    stats: async (context, record) => {
      const machine = machines.find(record.sandboxId);
      return machine && (await guestStats(machine, containerDir(context, record.id), guestCgroup(record.id)));
    },
    // The guest's cgroups are not looked into that deeply.
    detail: () => Promise.resolve(undefined),
  };
}

const oomFile = (context: CriContext, id: string): string => `${containerDir(context, id)}/oom`;
const guestConfig = (context: CriContext, id: string): string => `${containerDir(context, id)}/guest.json`;

/** Makes the container in its guest, parked; answers the plan of the process that stands for it here. */
async function planInGuest(context: CriContext, machine: PodMachine, creation: Creation): Promise<Plan> {
  const { container } = creation;
  const { record } = container;
  const { guest } = machine;
  await growMachine(context, machine, record.sandboxId);
  const spec = await shareContainer(context, machine, creation);
  await writeFile(guestConfig(context, record.id), JSON.stringify(spec));
  const { plan, warnings } = planContainer(spec, {
    id: record.id,
    rootfs: { kind: "path", path: spec.root?.path ?? "" },
    cgroup: { path: guestCgroup(record.id) },
    host: guest.facts,
    seccomp: await compileSeccomp(spec.linux?.seccomp, `${context.paths.root}/seccomp`),
    terminal: record.config.tty,
  });
  for (const warning of warnings) context.log.warn({ container: record.id }, warning);
  const dir = guestContainer(record.id);
  await guest.hand.run({ orders: [{ order: "mkdir", args: { path: dir, mode: 0o700, existOk: 1, parents: 1 } }] });
  await guest.hand.monitor({
    dir,
    plan,
    terminal: record.config.tty ? { rows: 24, columns: 80 } : undefined,
    stdin: record.config.stdin,
    stdinOnce: true,
    oom: { file: `/sys/fs/cgroup${guestCgroup(record.id)}/memory.events`, key: "oom_kill" },
  });
  await writeFile(oomFile(context, record.id), "oom_kill 0\n");
  const { orders, slot } = cgroupCreation(record.cgroupPath, context.host);
  return {
    orders: [
      ...orders,
      ...standIn(slot, record.config.tty),
      { order: "park", args: {} },
      {
        order: "guest_process",
        args: {
          relay: relaySocket(machine.directory),
          monitor: `${dir}/monitor.sock`,
          terminal: record.config.tty ? 1 : 0,
          stdin: record.config.stdin ? 1 : 0,
          oomFile: oomFile(context, record.id),
        },
      },
    ],
  };
}

const ROOT_SLOT = 0;

/** A process of this node's that is about to stand for one in the guest; its terminal is of the node's own devpts. */
function standIn(cgroupSlot: number | undefined, terminal: boolean): Order[] {
  const root: Order = { order: "open", args: { slot: ROOT_SLOT, path: "/", flags: BigInt(O.PATH | O.DIRECTORY) } };
  return [
    ...(terminal ? [root] : []),
    {
      order: "clone",
      args: { flags: 0n, cgroupSlot: cgroupSlot ?? NO_SLOT, uidMap: "", gidMap: "", denySetgroups: 0 },
    },
    { order: "setsid", args: {} },
    ...(terminal
      ? [{ order: "console", args: { root: ROOT_SLOT, rows: 24, columns: 80, bindConsole: 0 } } as const]
      : []),
  ];
}

/** One that has gone meanwhile has seen the process end. */
async function atMonitor(machine: PodMachine, id: string, work: (link: MonitorLink) => Promise<void>): Promise<void> {
  let link: MonitorLink | undefined;
  try {
    link = await connectMonitor(guestContainer(id), undefined, machine.guest.reach);
    await work(link);
  } catch (error) {
    if (!(error instanceof MonitorLost)) throw error;
  } finally {
    link?.close();
  }
}

/** All of its cgroup in the guest, whose monitor then says it to the process here; that one is killed too where it has nobody to hear it from. */
async function kill(context: CriContext, machines: Machines, container: Container): Promise<void> {
  const { record, link } = container;
  const machine = machines.findAnswering(record.sandboxId);
  let heard = false;
  if (machine) {
    try {
      await machine.guest.hand.run({ orders: [killOrder(record.id)] }, WITHIN);
      heard = record.phase === "running";
    } catch (error) {
      // Without a cgroup there is no process.
      if (error instanceof OrderError && error.errno === ENOENT)
        return await ignoreLost(async () => void (await link?.kill(0, SIGKILL)));
      context.log.warn({ container: record.id, err: error }, "the guest does not end a container; it is given up");
      machines.giveUp(record.sandboxId);
    }
  }
  if (!heard || !(await endedSoon(container))) await ignoreLost(async () => void (await link?.kill(0, SIGKILL)));
}

const killOrder = (id: string) =>
  ({
    order: "write_file",
    args: { path: `/sys/fs/cgroup${guestCgroup(id)}/cgroup.kill`, data: Buffer.from("1") },
  }) as const;

async function endedSoon({ ended }: Container): Promise<boolean> {
  const { promise, resolve } = Promise.withResolvers<boolean>();
  const timer = setTimeout(resolve, GUEST_MS, false);
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
  if (answering) {
    await inGuest(context, record, async () => {
      const { guest } = answering;
      await guest.hand.run(cgroupRemoval(guestCgroup(record.id), guest.facts), WITHIN);
      await guest.hand.run({ orders: [{ order: "remove_tree", args: { path: guestContainer(record.id) } }] }, WITHIN);
    });
  }
  if (machine) {
    const base = hostShare(machine, record.id);
    await context.hand.run({
      orders: [...(await mountsBelow(base)).map(unmountOrder), { order: "remove_tree", args: { path: base } }],
    });
  }
  await killCgroup(record.cgroupPath, context.host);
  await removeCgroup(context, record);
}

/** What cannot be given back there goes with the machine. */
async function inGuest(context: CriContext, record: ContainerRecord, work: () => Promise<void>): Promise<void> {
  try {
    await work();
  } catch (error) {
    context.log.debug({ container: record.id, err: error }, "a container's remains stay in its guest");
  }
}

/** Deepest first. */
async function mountsBelow(directory: string): Promise<string[]> {
  const { parseMountInfo } = await import("@berth/kernel");
  const mounts = parseMountInfo(await readFile("/proc/self/mountinfo", "utf8"));
  return mounts
    .map(({ target }) => target)
    .filter((target) => target.startsWith(`${directory}/`))
    .toReversed();
}

async function exec(
  context: CriContext,
  machine: PodMachine,
  { record }: Container,
  process: oci.Process,
): Promise<ExecCall> {
  const spec = JSON.parse(await readFile(guestConfig(context, record.id), "utf8")) as oci.Spec;
  const { guest } = machine;
  let pid = 0;
  await atMonitor(machine, record.id, async (link) => {
    pid = (await link.state(WITHIN)).pid;
  });
  const { apparmorProfile: _, selinuxLabel: __, ...plain } = process;
  const seccomp = await compileSeccomp(spec.linux?.seccomp, `${context.paths.root}/seccomp`);
  const target = { pid, spec, cgroup: { path: guestCgroup(record.id) } };
  const inside = planExec(target, plain, {
    host: guest.facts,
    seccomp,
    terminal: process.terminal === true,
  });
  const { encodePlan } = await import("@berth/kernel");
  return {
    plan: {
      orders: [
        ...standIn(undefined, process.terminal === true),
        {
          order: "guest_exec",
          args: {
            relay: relaySocket(machine.directory),
            monitor: `${guestContainer(record.id)}/monitor.sock`,
            stdin: 1,
            terminal: process.terminal === true ? 1 : 0,
            drainMs: context.config.execDrainMs,
            plan: encodePlan(inside.plan),
          },
        },
      ],
    },
    told: async (work) => {
      try {
        return await work;
      } catch (error) {
        throw guestError(error, inside.plan);
      }
    },
    [Symbol.asyncDispose]: () => Promise.resolve(),
  };
}
