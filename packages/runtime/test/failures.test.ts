/** A failure at every order of a full plan, one by one: it is named, and nothing is left half-made. */
import assert from "node:assert/strict";
import { mkdir, mkdtemp, readdir, readFile, rmdir, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { after, before, test } from "node:test";
import { cgroupDirectories, cgroupRemoval, OrderError, readHost, type Order } from "@berth/kernel";
import type { oci } from "@berth/spec";
import { planContainer, type ContainerContext, type Planned } from "../src/index.ts";
import { Machine, shellSpec, whyNot, withLinux, withProcess } from "./support/machine.ts";

const why = await whyNot();
let machine: Machine;
let watched: string | undefined;
let home: string | undefined;

/** All that this file starts is in a cgroup of its own, so that what is left over is found wherever it hides. */
before(async () => {
  if (why !== undefined) return;
  const { cgroups } = readHost();
  const mountpoint = cgroups.unified?.mountpoint ?? cgroups.v1[0]?.mountpoint;
  if (mountpoint !== undefined) {
    home = join(mountpoint, await ownCgroup(cgroups.unified !== undefined), "cgroup.procs");
    watched = join(mountpoint, `berth-leaks-${process.pid}`);
    await mkdir(watched);
    await writeFile(join(watched, "cgroup.procs"), String(process.pid));
  }
  machine = await Machine.start();
});

after(async () => {
  if (why !== undefined) return;
  await machine[Symbol.asyncDispose]();
  if (watched === undefined || home === undefined) return;
  await writeFile(home, String(process.pid));
  await rmdir(watched);
});

/** "/a" of the line "0::/a" (v2) or of the first one (v1). */
async function ownCgroup(isV2: boolean): Promise<string> {
  const lines = (await readFile("/proc/self/cgroup", "utf8")).split("\n");
  const line = isV2 ? lines.find((one) => one.startsWith("0::")) : lines[0];
  return line?.split(":").slice(2).join(":") ?? "/";
}

const COMPLAINT = "slot 4000 is empty";
const poison: Order = { order: "close", args: { slot: 4000 }, because: "the test" };

function fullSpec(volume: string): oci.Spec {
  const hook = { path: "/bin/true", timeout: 10 };
  const spec = withProcess({
    user: { uid: 1000, gid: 1000, additionalGids: [7] },
    cwd: "/tmp",
    rlimits: [{ type: "RLIMIT_NOFILE", soft: 64, hard: 64 }],
    oomScoreAdj: 500,
    ioPriority: { class: "IOPRIO_CLASS_BE", priority: 4 },
  })(shellSpec("true"));
  return {
    ...withLinux({
      sysctl: { "net.ipv4.ip_forward": "1" },
      rootfsPropagation: "rslave",
      devices: [{ path: "/dev/fuse", type: "c", major: 10, minor: 229 }],
      memoryPolicy: { mode: "MPOL_DEFAULT" },
      personality: { domain: "LINUX" },
      timeOffsets: { monotonic: { secs: 5 } },
      namespaces: [...(spec.linux?.namespaces ?? []), { type: "time" }],
      resources: { memory: { limit: 1 << 26 }, pids: { limit: 20 }, devices: [{ allow: false }] },
    })(spec),
    root: { path: "rootfs", readonly: true },
    hooks: { prestart: [hook], createRuntime: [hook], startContainer: [hook] },
    mounts: [
      ...(spec.mounts ?? []),
      { destination: "/data", type: "bind", source: volume, options: ["rbind", "ro"] },
      { destination: "/tmp", type: "tmpfs", source: "tmpfs", options: ["tmpcopyup", "mode=1777"] },
    ],
  };
}

async function processes(): Promise<number> {
  if (watched === undefined) return 0;
  return (await readFile(join(watched, "cgroup.procs"), "utf8")).split("\n").filter((line) => line !== "").length;
}

/** Those of the machine's that this test could have made. */
const mounts = async () =>
  (await readFile("/proc/self/mountinfo", "utf8")).split("\n").filter((line) => line.includes(machine.directory));
const descriptors = async () => (await readdir("/proc/self/fd")).length;

/** The processes set aside end by themselves, a moment after those that they were for. */
async function settled(most: number): Promise<number> {
  const deadline = Date.now() + 60_000;
  let count = await processes();
  while (count > most && Date.now() < deadline) {
    await new Promise((resolve) => setTimeout(resolve, 5));
    count = await processes();
  }
  return count;
}

async function failAt(index: number, planned: Planned, context: ContainerContext): Promise<void> {
  const { orders } = planned.plan;
  const poisoned = { ...planned, plan: { orders: [...orders.slice(0, index), poison, ...orders.slice(index)] } };
  const isNamed = (error: unknown) => {
    assert.ok(error instanceof OrderError, String(error));
    assert.deepEqual([error.order, error.code, error.detail], [index, "EBADF", COMPLAINT], `order ${index}`);
    assert.equal(error.because, "the test");
    const clone = orders.findIndex(({ order }) => order === "clone");
    assert.equal(error.where, index <= clone ? "stage" : "container");
    assert.equal(error.message.endsWith(" (in the container's namespaces)"), index > clone, error.message);
    return true;
  };
  if (index <= orders.findIndex(({ order }) => order === "park"))
    return await assert.rejects(machine.createPlanned(poisoned, context), isNamed);
  const running = await machine.createPlanned(poisoned, context);
  await assert.rejects(running.link.start(), isNamed);
  await machine.end(running);
}

test(
  "a failure at every order of a full plan leaves nothing",
  { ...(why !== undefined && { skip: why }), timeout: 120_000 },
  async () => {
    const volume = await mkdtemp(join(tmpdir(), "berth-volume-"));
    const context = machine.context();
    const planned = planContainer(fullSpec(volume), context);
    assert.ok(planned.plan.orders.length > 80, "a full plan");
    // One that was ending when they were counted first is not to hide another.
    let most = await processes();
    const [mounted, open] = [await mounts(), await descriptors()];
    for (let index = 0; index < planned.plan.orders.length; index++) {
      await failAt(index, planned, context);
      const left = await settled(most);
      assert.ok(left <= most, `order ${index} leaves ${left - most} processes`);
      most = left;
      // EBUSY if a process were left in it.
      await machine.hand.run(cgroupRemoval(context.cgroup.path, machine.host));
      for (const { directory } of cgroupDirectories(context.cgroup.path, machine.host.cgroups).v1)
        await assert.rejects(readdir(directory), /ENOENT/);
    }
    assert.deepEqual(await mounts(), mounted);
    assert.ok((await descriptors()) <= open + 2, "descriptors");
    await rmdir(volume);
  },
);

test("the full plan without a failure runs", why === undefined ? {} : { skip: why }, async () => {
  const volume = await mkdtemp(join(tmpdir(), "berth-volume-"));
  const { state } = await machine.run("", () => fullSpec(volume));
  assert.equal(state.code, 0);
  await rmdir(volume);
});
