/** Containers in berth's own guest: made by the same plans as the host's, which bosun carries out there. */
import { readFile, writeFile } from "node:fs/promises";
import {
  type CgroupStats,
  cgroupRemoval,
  compileSeccomp,
  connectMonitor,
  encodePlan,
  guestError,
  type MonitorLink,
  MonitorLost,
  OrderError,
  updateResources,
} from "@berth/kernel";
import type { Order, Plan } from "@berth/kernel";
import { planContainer, planExec } from "@berth/runtime";
import { oci } from "@berth/spec/oci";
import { VmError } from "../../errors.ts";
import type { Guest } from "../../sandbox/guest.ts";
import { guestContainer, GUEST_SHARE, GUEST_SHM, relaySocket } from "../../sandbox/host.ts";
import type { GuestContainer, GuestExec, GuestProcess, GuestRuntime } from "../runtime.ts";
import { standInOom } from "../stand-in.ts";
import { findInit, startInit } from "./init.ts";
import { countProcesses } from "./processes.ts";
import { cgroupDetail, cgroupStats } from "./stats.ts";
import { bosunTools } from "./tools.ts";

const ENOENT = 2;
/** A guest that hangs must not keep its pod from ending. */
const WITHIN = { timeoutMs: 10_000 };
const SIZE = { rows: 24, columns: 80 } as const;
const CGROUP2 = "/sys/fs/cgroup";

const cgroupOf = (id: string): string => `/berth/${id}`;
const monitorOf = (id: string): string => `${guestContainer(id)}/monitor.sock`;
/** The container's config, for its further processes. */
const specFile = (directory: string): string => `${directory}/guest.json`;

/** `machine`: its directory. */
export function bosunRuntime(machine: string, guest: Guest): GuestRuntime {
  // Until the start, whose failure they tell in words.
  const plans = new Map<string, Plan>();
  const pids: Pids = new Map();
  return {
    places: { share: GUEST_SHARE, shm: GUEST_SHM },
    tools: bosunTools(guest),
    create: async (container) => {
      const { plan, last } = await create(machine, guest, pids, container);
      plans.set(container.id, plan);
      return last;
    },
    told: async (id, work) => {
      const plan = plans.get(id);
      plans.delete(id);
      try {
        return await work;
      } catch (error) {
        throw plan ? guestError(error, plan) : error;
      }
    },
    exec: (process) => exec(machine, guest, pids, process),
    signal: (id, signal) => atMonitor(guest, id, async (link) => void (await link.kill(0, signal, WITHIN))),
    kill: (id) => kill(guest, id),
    release: (id) => {
      plans.delete(id);
      pids.delete(id);
      return release(guest, id);
    },
    update: async (id, resources, { signal } = {}) =>
      void (await guest.hand.run(updateResources(cgroupOf(id), resources, guest.facts), signal ? { signal } : {})),
    stats: (id, directory): Promise<CgroupStats | undefined> => cgroupStats(guest, directory, cgroupOf(id)),
    detail: async (id, directory) => {
      const look = await cgroupDetail(guest, directory, cgroupOf(id));
      return look && { cgroup: look.detail, processes: await countProcesses(guest, look.pids) };
    },
    pause: (id) => setFrozen(guest, id, true),
    resume: (id) => setFrozen(guest, id, false),
    online: (count) => online(guest, count),
    startInit: () => startInit(guest),
    findInit: () => findInit(guest),
    dial: (port) => guest.reach(`tcp:${port}`),
  };
}

/** In the guest, by container. One that has ended may be another's by then: its monitor refuses further processes. */
type Pids = Map<string, number>;

async function create(
  machine: string,
  guest: Guest,
  pids: Pids,
  container: GuestContainer,
): Promise<{ readonly plan: Plan; readonly last: Order }> {
  const { id, directory, terminal, stdin } = container;
  const spec = ownSpec(container.spec, id);
  await writeFile(specFile(directory), oci.compactSpec(spec));
  const { plan, warnings } = planContainer(spec, {
    id,
    rootfs: { kind: "path", path: spec.root?.path ?? "" },
    cgroup: { path: cgroupOf(id) },
    host: guest.facts,
    seccomp: await compileSeccomp(spec.linux?.seccomp, container.seccompCache),
    terminal,
  });
  for (const warning of warnings) container.warn(warning);
  const dir = guestContainer(id);
  await guest.hand.run({ orders: [{ order: "mkdir", args: { path: dir, mode: 0o700, existOk: 1, parents: 1 } }] });
  const { pid } = await guest.hand.monitor({
    dir,
    plan,
    terminal: terminal ? SIZE : undefined,
    stdin,
    stdinOnce: true,
    oom: { file: `${CGROUP2}${cgroupOf(id)}/memory.events`, key: "oom_kill" },
  });
  pids.set(id, pid);
  const { file: oomFile } = standInOom(directory);
  await writeFile(oomFile, "oom_kill 0\n");
  const last: Order = {
    order: "guest_process",
    args: {
      relay: relaySocket(machine),
      monitor: monitorOf(id),
      terminal: terminal ? 1 : 0,
      stdin: stdin ? 1 : 0,
      oomFile,
    },
  };
  return { plan, last };
}

function ownSpec(spec: oci.Spec, id: string): oci.Spec {
  return { ...spec, linux: { ...spec.linux, cgroupsPath: cgroupOf(id) } };
}

async function exec(machine: string, guest: Guest, pids: Pids, asked: GuestProcess): Promise<GuestExec> {
  const { id, process, directory, drainMs } = asked;
  const spec = oci.parseSpec(await readFile(specFile(directory), "utf8"));
  const pid = pids.get(id) ?? (await askPid(guest, id));
  pids.set(id, pid);
  const { apparmorProfile: _, selinuxLabel: __, ...plain } = process;
  const terminal = process.terminal === true;
  const { plan } = planExec({ pid, spec, cgroup: { path: cgroupOf(id) } }, plain, {
    host: guest.facts,
    seccomp: await compileSeccomp(spec.linux?.seccomp, asked.seccompCache),
    terminal,
  });
  return {
    last: {
      order: "guest_exec",
      args: {
        relay: relaySocket(machine),
        monitor: monitorOf(id),
        stdin: 1,
        terminal: terminal ? 1 : 0,
        drainMs,
        plan: encodePlan(plan),
      },
    },
    told: async (work) => {
      try {
        return await work;
      } catch (error) {
        throw guestError(error, plan);
      }
    },
    // The monitor there ends it with its stand-in's connection.
    [Symbol.asyncDispose]: () => Promise.resolve(),
  };
}

/** Of a container that an earlier berthd has made. */
async function askPid(guest: Guest, id: string): Promise<number> {
  let pid = 0;
  await atMonitor(guest, id, async (link) => {
    pid = (await link.state(WITHIN)).pid;
  });
  return pid;
}

/** One that has gone meanwhile has seen the process end. */
async function atMonitor(guest: Guest, id: string, work: (link: MonitorLink) => Promise<void>): Promise<void> {
  let link: MonitorLink | undefined;
  try {
    link = await connectMonitor(guestContainer(id), undefined, guest.reach);
    await work(link);
  } catch (error) {
    if (!(error instanceof MonitorLost)) throw error;
  } finally {
    link?.close();
  }
}

const cgroupFile = (id: string, name: string): string => `${CGROUP2}${cgroupOf(id)}/${name}`;

/** All of its cgroup, whose monitor then says it to the stand-in. */
async function kill(guest: Guest, id: string): Promise<boolean> {
  const order: Order = {
    order: "write_file",
    args: { path: cgroupFile(id, "cgroup.kill"), data: Buffer.from("1") },
  };
  try {
    await guest.hand.run({ orders: [order] }, WITHIN);
    return true;
  } catch (error) {
    // Without a cgroup there is no process.
    if (error instanceof OrderError && error.errno === ENOENT) return false;
    throw error;
  }
}

/** ACPI tells the guest of a processor; when it has it, it can be taken into use. */
const APPEAR_MS = 20_000;

async function online(guest: Guest, count: number): Promise<void> {
  const orders = Array.from({ length: count - 1 }, (_, index): Order[] => {
    const path = `/sys/devices/system/cpu/cpu${index + 1}/online`;
    return [
      { order: "find", args: { pattern: path, timeoutMs: APPEAR_MS } },
      { order: "write_file", args: { path, data: Buffer.from("1") } },
    ];
  });
  if (orders.length > 0) await guest.hand.run({ orders: orders.flat() });
}

async function release(guest: Guest, id: string): Promise<void> {
  await guest.hand.run(cgroupRemoval(cgroupOf(id), guest.facts), WITHIN);
  await guest.hand.run({ orders: [{ order: "remove_tree", args: { path: guestContainer(id) } }] }, WITHIN);
}

const MAX_EVENTS = 4096;

/** The kernel freezes each of its processes when that next leaves it; `cgroup.events` tells when all have (cgroup-v2.rst). */
async function setFrozen(guest: Guest, id: string, frozen: boolean): Promise<void> {
  const data = Buffer.from(frozen ? "1" : "0");
  const write: Order = { order: "write_file", args: { path: cgroupFile(id, "cgroup.freeze"), data } };
  const read: Order = { order: "read_file", args: { path: cgroupFile(id, "cgroup.events"), max: MAX_EVENTS } };
  await guest.hand.run({ orders: [write] }, WITHIN);
  for (const end = Date.now() + WITHIN.timeoutMs; Date.now() < end;) {
    const outputs = await guest.hand.run({ orders: [read] }, WITHIN);
    const events = Buffer.from(outputs.get(0) ?? []).toString();
    if (events.includes(`frozen ${frozen ? 1 : 0}`)) return;
  }
  throw new VmError("Guest", `container ${id} is not ${frozen ? "frozen" : "thawed"} after ${WITHIN.timeoutMs} ms`);
}
