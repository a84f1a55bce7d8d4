/** The systemd cgroup driver where systemd is PID 1: scopes in a kubelet's slices, through reloads and restarts. Run by tests/guest. */
import assert from "node:assert/strict";
import { existsSync, readFileSync } from "node:fs";
import { after, before, describe, test } from "node:test";
import { slicePath, SystemdManager, type UnitProperty } from "@berth/kernel";
import { run, TestDaemon } from "./support/daemon.ts";
import { OWN_PID, createContainer, exited, runPod, sh, startContainer, status } from "./support/pods.ts";

const SLEEP = "trap exit TERM; while :; do sleep 1000 & wait; done";
const [TOP, MIDDLE, SLICE] = [
  "kubetest.slice",
  "kubetest-burstable.slice",
  "kubetest-burstable-pod0a1b.slice",
] as const;
const POD = { linux: { securityContext: OWN_PID, cgroupParent: slicePath(SLICE) } };
const table = "plugins.'io.containerd.cri.v1.runtime'.containerd.runtimes";
const why = existsSync("/run/systemd/system") ? undefined : "systemd is not this machine's init";

/** systemd's word on a unit. */
async function show(unit: string, ...properties: readonly string[]): Promise<Record<string, string>> {
  const text = await run(["systemctl", "show", unit, `--property=${properties.join(",")}`]);
  return Object.fromEntries(
    text
      .trim()
      .split("\n")
      .map((line) => line.split(/=(.*)/s, 2) as [string, string]),
  );
}
const property = async (unit: string, name: string): Promise<string | undefined> => (await show(unit, name))[name];
const scopeOf = (id: string): string => `cri-containerd-${id}.scope`;
const file = (id: string, name: string): string =>
  readFileSync(`/sys/fs/cgroup${slicePath(SLICE)}/${scopeOf(id)}/${name}`, "utf8").trim();

async function gone(id: string): Promise<void> {
  const isThere = (): boolean => existsSync(`/sys/fs/cgroup${slicePath(SLICE)}/${scopeOf(id)}`);
  for (const end = Date.now() + 120_000; isThere() || (await property(scopeOf(id), "LoadState")) !== "not-found";) {
    assert.ok(Date.now() < end, `${scopeOf(id)} is still there`);
    await new Promise((resolve) => setTimeout(resolve, 200));
  }
}

/** As a kubelet makes them. */
async function makeSlices(): Promise<void> {
  const manager = await SystemdManager.connect();
  for (const [name, wants] of [
    [TOP, "-.slice"],
    [MIDDLE, TOP],
    [SLICE, MIDDLE],
  ] as const) {
    const properties: UnitProperty[] = [
      ["Description", { signature: "s", value: `libcontainer container ${name}` }],
      ["Wants", { signature: "as", value: [wants] }],
      ["MemoryAccounting", { signature: "b", value: true }],
      ["CPUAccounting", { signature: "b", value: true }],
      ["TasksAccounting", { signature: "b", value: true }],
      ["DefaultDependencies", { signature: "b", value: false }],
    ];
    if (name === SLICE) properties.push(["MemoryMax", { signature: "t", value: 256n << 20n }]);
    await manager.start({ name, properties });
  }
  manager.close();
}

describe("scopes of systemd's", why === undefined ? {} : { skip: why }, () => {
  let daemon: TestDaemon;
  let pod: Awaited<ReturnType<typeof runPod>>;
  before(async () => {
    await makeSlices();
    const handlers = ["runc", "crun"].map(
      (name) => `[${table}.${name}-binary.options]\nBinaryName = '${name}'\nSystemdCgroup = true\n`,
    );
    daemon = await TestDaemon.start({
      config: `version = 3\n[${table}.runc.options]\nSystemdCgroup = true\n${handlers.join("")}`,
    });
    pod = await runPod(daemon, POD);
  });
  after(async () => {
    await daemon[Symbol.asyncDispose]();
    const left = await run(["systemctl", "list-units", "--all", "--plain", "--no-legend", "cri-containerd-*"]);
    assert.equal(left.trim(), "", "no scope outlives its container");
    await run(["systemctl", "stop", SLICE, MIDDLE, TOP]);
  });

  test("its limits are the unit's and the cgroup's, and change in both", async () => {
    const resources = {
      cpuQuota: 50_000n,
      cpuPeriod: 100_000n,
      cpuShares: 512n,
      memoryLimitInBytes: 64n << 20n,
      unified: { "pids.max": "77" },
    };
    const id = await startContainer(daemon, pod, SLEEP, { linux: { securityContext: OWN_PID, resources } });
    const unit = scopeOf(id);
    assert.deepEqual(
      await show(unit, "Slice", "Delegate", "MemoryMax", "TasksMax", "CPUQuotaPerSecUSec", "CPUWeight"),
      {
        Slice: SLICE,
        Delegate: "yes",
        MemoryMax: String(64 << 20),
        TasksMax: "77",
        CPUQuotaPerSecUSec: "500ms",
        CPUWeight: file(id, "cpu.weight"),
      },
    );
    assert.equal(await property(unit, "ControlGroup"), `${slicePath(SLICE)}/${unit}`);
    assert.equal(file(id, "memory.max"), String(64 << 20));
    assert.equal(file(id, "cpu.max"), "50000 100000");
    assert.match(await sh(daemon, id, "cat /proc/self/cgroup"), /^0::\/$/m);

    const linux = { memoryLimitInBytes: 32n << 20n, cpuQuota: 70_000n, cpuPeriod: 100_000n };
    await daemon.client.runtime.updateContainerResources({ containerId: id, linux });
    const check = async (): Promise<void> => {
      assert.deepEqual(await show(unit, "MemoryMax", "CPUQuotaPerSecUSec"), {
        MemoryMax: String(32 << 20),
        CPUQuotaPerSecUSec: "700ms",
      });
      assert.equal(file(id, "memory.max"), String(32 << 20));
      assert.equal(file(id, "cpu.max"), "70000 100000");
      assert.equal(file(id, "pids.max"), "77");
    };
    await check();
    await run(["systemctl", "daemon-reload"]);
    await check();
    assert.equal(await property(SLICE, "MemoryMax"), String(256 << 20), "the kubelet's own limits stay");

    const { stats } = await daemon.client.runtime.containerStats({ containerId: id });
    assert.ok((stats?.memory?.workingSetBytes?.value ?? 0n) > 0n);
    const { stats: ofPod } = await daemon.client.runtime.podSandboxStats({ podSandboxId: pod.id });
    assert.ok((ofPod?.linux?.memory?.usageBytes?.value ?? 0n) >= (stats?.memory?.usageBytes?.value ?? 0n) / 2n);
    await daemon.client.runtime.stopContainer({ containerId: id, timeout: 10n });
    await gone(id);
    assert.equal(await property(SLICE, "ActiveState"), "active");
  });

  test("devices stay open to a container over a reload and a re-execution of systemd", async () => {
    const devices = [{ hostPath: "/dev/vda", containerPath: "/dev/disk", permissions: "r" }];
    const id = await startContainer(daemon, pod, SLEEP, { devices });
    const read = "dd if=/dev/disk of=/dev/null bs=512 count=1 2>/dev/null && echo read";
    const forbidden = "mknod /tmp/kmsg c 1 11 && cat /tmp/kmsg 2>&1 | head -c 100";
    const check = async (): Promise<void> => {
      assert.equal(await sh(daemon, id, read), "read\n");
      assert.match(await sh(daemon, id, forbidden), /not permitted/i);
      await sh(daemon, id, "rm -f /tmp/kmsg; echo x >/dev/null");
    };
    await check();
    for (const how of ["daemon-reload", "daemon-reexec", "daemon-reload"]) {
      await run(["systemctl", how]);
      await check();
      assert.equal((await status(daemon, id)).state, 1, how);
    }
    await daemon.client.runtime.stopContainer({ containerId: id, timeout: 10n });
  });

  test("containers start and stop while systemd re-executes itself, and after its bus was started anew", async () => {
    const around = async (disturb: () => Promise<unknown>): Promise<void> => {
      const disturbed = disturb();
      const ids = await Promise.all([1, 2, 3].map(() => startContainer(daemon, pod, SLEEP)));
      await disturbed;
      for (const id of ids) assert.equal(await property(scopeOf(id), "ActiveState"), "active");
      await Promise.all([
        disturb(),
        ...ids.map((containerId) => daemon.client.runtime.removeContainer({ containerId })),
      ]);
      // What systemd is not there to hear within two seconds it is told later.
      for (const id of ids) await gone(id);
    };
    await around(() => run(["systemctl", "daemon-reexec"]));
    await around(() => run(["systemctl", "daemon-reload"]));
    await around(() => run(["systemctl", "kill", "--signal=KILL", "dbus.service"]));
  });

  test("a container that is killed for memory says so, and its scope is gone", async () => {
    const resources = { memoryLimitInBytes: 16n << 20n, memorySwapLimitInBytes: 16n << 20n };
    const id = await startContainer(daemon, pod, "x=$(head -c 64m /dev/zero | tr '\\0' x); echo $x | wc -c", {
      linux: { securityContext: OWN_PID, resources },
    });
    const { reason, exitCode } = await exited(daemon, id);
    assert.deepEqual([reason, exitCode], ["OOMKilled", 137]);
    await gone(id);
  });

  test("the init of a pod that shares its PID namespace is a scope of its own", async () => {
    const sharing = await runPod(daemon, { linux: { cgroupParent: slicePath(SLICE) } });
    const id = await startContainer(daemon, sharing, SLEEP, {
      linux: { securityContext: { namespaceOptions: { pid: 0 } } },
    });
    for (const unit of [scopeOf(sharing.id), scopeOf(id)]) assert.equal(await property(unit, "Slice"), SLICE);
    await daemon.client.runtime.removePodSandbox({ podSandboxId: sharing.id });
    for (const each of [sharing.id, id]) await gone(each);
  });

  // crun keeps a scope's limits in a cgroup below it.
  for (const [name, below] of [
    ["runc", ""],
    ["crun", "container/"],
  ] as const)
    test(`${name} by BinaryName makes the scope by itself, and changes it`, async () => {
      const own = await runPod(daemon, POD, `${name}-binary`);
      const resources = { memoryLimitInBytes: 64n << 20n };
      const id = await createContainer(daemon, own, SLEEP, { linux: { securityContext: OWN_PID, resources } });
      assert.equal(await property(scopeOf(id), "Slice"), SLICE);
      assert.equal(file(id, `${below}memory.max`), String(64 << 20));
      await daemon.client.runtime.startContainer({ containerId: id });
      assert.equal(await sh(daemon, id, "echo there"), "there\n");
      await daemon.client.runtime.updateContainerResources({
        containerId: id,
        linux: { memoryLimitInBytes: 96n << 20n },
      });
      assert.equal(file(id, `${below}memory.max`), String(96 << 20));
      const { stats } = await daemon.client.runtime.containerStats({ containerId: id });
      assert.ok((stats?.memory?.usageBytes?.value ?? 0n) > 0n);
      await daemon.client.runtime.removePodSandbox({ podSandboxId: own.id });
      await gone(id);
    });

  test("a daemon that was killed knows the scopes of the one before", async () => {
    const id = await startContainer(daemon, pod, SLEEP);
    await daemon.kill("SIGKILL");
    await daemon.startAgain();
    await daemon.client.runtime.updateContainerResources({
      containerId: id,
      linux: { memoryLimitInBytes: 40n << 20n },
    });
    assert.equal(await property(scopeOf(id), "MemoryMax"), String(40 << 20));
    await daemon.client.runtime.removePodSandbox({ podSandboxId: pod.id });
    await gone(id);
  });
});
