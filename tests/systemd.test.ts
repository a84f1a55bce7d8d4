/** SystemdCgroup = true: pods and containers in slices and scopes, with a stand-in for systemd. The real one: tests/guest. Needs root. */
import assert from "node:assert/strict";
import { existsSync, readdirSync, readFileSync, rmdirSync, writeFileSync } from "node:fs";
import { mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { after, before, describe, test } from "node:test";
import { cgroupDirectories, FakeSystemd, type HostFacts, probeHost, slicePath } from "@berth/kernel";
import { status as codes } from "@grpc/grpc-js";
import { TestDaemon } from "./support/daemon.ts";
import { assertNothingLeft, inventory } from "./support/leaks.ts";
import { OWN_PID, createContainer, runPod, sh, startContainer, status } from "./support/pods.ts";

const SLEEP = "trap exit TERM; while :; do sleep 1000 & wait; done";
/** As the kubelet names a pod's, below slices of this test's own. */
const TOP = `berthtest${process.pid}`;
const SLICE = `${TOP}-burstable-pod0a1b.slice`;
const table = "plugins.'io.containerd.cri.v1.runtime'.containerd.runtimes";
const OTHER_DRIVER = `[${table}.plain]\nruntime_type = 'io.containerd.runc.v2'\n`;
const POD = { linux: { securityContext: OWN_PID, cgroupParent: slicePath(SLICE) } };

type Properties = Readonly<Record<string, unknown>>;
const propertiesOf = (list: unknown): Properties =>
  Object.fromEntries((list as [string, { value: unknown }][]).map(([name, { value }]) => [name, value]));

describe("the systemd cgroup driver", () => {
  let dir: string;
  let systemd: FakeSystemd;
  let daemon: TestDaemon;
  let host: HostFacts;
  before(async () => {
    dir = await mkdtemp(`${tmpdir()}/berth-bus-`);
    systemd = await FakeSystemd.listen(`${dir}/bus`);
    process.env["DBUS_SYSTEM_BUS_ADDRESS"] = `unix:path=${dir}/bus`;
    host = await probeHost();
    const config = `version = 3\n[${table}.runc.options]\nSystemdCgroup = true\n${OTHER_DRIVER}[${table}.script.options]\nBinaryName = '${dir}/runtime'\nSystemdCgroup = true\n`;
    daemon = await TestDaemon.start({ config });
  });
  after(async () => {
    await daemon[Symbol.asyncDispose]();
    await systemd[Symbol.asyncDispose]();
    await rm(dir, { recursive: true });
    // What systemd would do with its slices.
    for (let path = slicePath(SLICE); path !== ""; path = path.replace(/\/[^/]*$/, ""))
      for (const directory of directoriesOf(path)) if (existsSync(directory)) rmdirSync(directory);
  });

  const directoriesOf = (path: string): string[] => {
    const { v1, unified } = cgroupDirectories(path, host.cgroups);
    return [...v1.map(({ directory }) => directory), ...(unified === undefined ? [] : [unified])];
  };
  const scopeOf = (id: string): string => `${slicePath(SLICE)}/cri-containerd-${id}.scope`;
  const started = (id: string): Properties | undefined => {
    const call = systemd.bodies("StartTransientUnit").find(([unit]) => unit === `cri-containerd-${id}.scope`);
    return call && propertiesOf(call[2]);
  };
  const stopped = (id: string): boolean =>
    systemd.bodies("StopUnit").some(([unit]) => unit === `cri-containerd-${id}.scope`);
  const verbose = async (containerId: string) => {
    const { info } = await daemon.client.runtime.containerStatus({ containerId, verbose: true });
    return JSON.parse(info.info ?? "") as {
      cgroupPath: string;
      pid: number;
      runtimeSpec: { linux: { cgroupsPath: string } };
    };
  };

  test("RuntimeConfig says it, and so does Status", async () => {
    assert.equal((await daemon.client.runtime.runtimeConfig({})).linux?.cgroupDriver, 0);
    const { info } = await daemon.client.runtime.status({ verbose: true });
    assert.equal((JSON.parse(info.config ?? "") as { cgroupDriver: string }).cgroupDriver, "systemd");
  });

  test("a container is a scope in the pod's slice, with its limits, until it has ended", async () => {
    const nothing = await inventory(daemon);
    const pod = await runPod(daemon, POD);
    const resources = { cpuQuota: 50_000n, cpuPeriod: 100_000n, cpuShares: 512n, memoryLimitInBytes: 64n << 20n };
    const id = await createContainer(daemon, pod, SLEEP, { linux: { securityContext: OWN_PID, resources } });
    const { cgroupPath, pid, runtimeSpec } = await verbose(id);
    assert.equal(cgroupPath, scopeOf(id));
    assert.equal(runtimeSpec.linux.cgroupsPath, `${SLICE}:cri-containerd:${id}`);
    const unit = started(id) ?? {};
    assert.deepEqual([unit["Slice"], unit["Delegate"], unit["PIDs"]], [SLICE, true, [pid]]);
    assert.equal(unit["CPUQuotaPerSecUSec"], 500_000n);
    assert.equal(unit["MemoryMax"] ?? unit["MemoryLimit"], 64n << 20n);
    assert.equal(unit["DevicePolicy"], "strict", "a reload of systemd leaves the container its devices");
    for (const directory of directoriesOf(cgroupPath))
      assert.equal(readFileSync(`${directory}/cgroup.procs`, "utf8").trim(), String(pid), directory);

    await daemon.client.runtime.startContainer({ containerId: id });
    for (const line of (await sh(daemon, id, "cat /proc/self/cgroup")).trim().split("\n"))
      assert.ok(line.endsWith(":/") || line.endsWith(cgroupPath), `an exec is in the scope: ${line}`);
    await daemon.client.runtime.updateContainerResources({
      containerId: id,
      linux: { memoryLimitInBytes: 32n << 20n },
    });
    const [name, , changed] = systemd.bodies("SetUnitProperties").at(-1) ?? [];
    assert.equal(name, `cri-containerd-${id}.scope`);
    const now = propertiesOf(changed);
    assert.equal(now["MemoryMax"] ?? now["MemoryLimit"], 32n << 20n);
    assert.equal(now["CPUQuotaPerSecUSec"], 500_000n, "what the request leaves out is said again");
    const { stats } = await daemon.client.runtime.containerStats({ containerId: id });
    assert.ok((stats?.cpu?.usageCoreNanoSeconds?.value ?? 0n) > 0n);
    const { stats: ofPod } = await daemon.client.runtime.podSandboxStats({ podSandboxId: pod.id });
    assert.ok((ofPod?.linux?.cpu?.usageCoreNanoSeconds?.value ?? 0n) > 0n);

    await daemon.client.runtime.stopContainer({ containerId: id, timeout: 5n });
    assert.ok(stopped(id));
    for (const directory of directoriesOf(cgroupPath)) assert.equal(existsSync(directory), false, directory);
    await daemon.client.runtime.removePodSandbox({ podSandboxId: pod.id });
    await assertNothingLeft(daemon, nothing);
  });

  test("the init of a pod that shares its PID namespace is a scope by the pod's id", async () => {
    const pod = await runPod(daemon, { linux: { cgroupParent: slicePath(SLICE) } });
    await startContainer(daemon, pod, SLEEP, { linux: { securityContext: { namespaceOptions: { pid: 0 } } } });
    assert.equal(started(pod.id)?.["Slice"], SLICE);
    assert.ok(directoriesOf(scopeOf(pod.id)).every((directory) => existsSync(directory)));
    await daemon.client.runtime.removePodSandbox({ podSandboxId: pod.id });
    assert.ok(stopped(pod.id));
    assert.ok(!directoriesOf(scopeOf(pod.id)).some((directory) => existsSync(directory)));
  });

  test("pods without a parent are in a slice of the daemon's own", async () => {
    const pod = await runPod(daemon);
    const id = await startContainer(daemon, pod, SLEEP);
    assert.match(String(started(id)?.["Slice"]), /^berth-[0-9a-f]{8}\.slice$/);
    assert.match((await verbose(id)).cgroupPath, /^\/berth\.slice\/berth-[0-9a-f]{8}\.slice\/cri-containerd-/);
    await daemon.client.runtime.removePodSandbox({ podSandboxId: pod.id });
    for (const directory of directoriesOf(`/berth.slice/${String(started(id)?.["Slice"])}`)) rmdirSync(directory);
    // Another test's daemon may have its own there.
    for (const directory of directoriesOf("/berth.slice"))
      if (!readdirSync(directory, { withFileTypes: true }).some((entry) => entry.isDirectory())) rmdirSync(directory);
  });

  test("a kubelet and a handler of different drivers are told so", async () => {
    const refused = (message: RegExp) => (error: Error & { code: number }) => {
      assert.equal(error.code, codes.INVALID_ARGUMENT);
      assert.match(error.message, message);
      return true;
    };
    const parent = (cgroupParent: string) => ({ linux: { cgroupParent } });
    await assert.rejects(
      runPod(daemon, parent("/kubepods/burstable/pod1")),
      refused(/cgroup_parent: .*no systemd slice.*SystemdCgroup = true.*cgroupDriver: systemd/),
    );
    await assert.rejects(runPod(daemon, POD, "plain"), refused(/cgroup_parent: .*is a systemd slice.*cgroupfs/));
    await assert.rejects(runPod(daemon, parent("a--b.slice")), refused(/cgroup_parent: "a--b\.slice" is not the name/));
  });

  test("a scope that systemd does not start fails the creation, and nothing stays", async () => {
    const pod = await runPod(daemon, POD);
    const nothing = await inventory(daemon);
    systemd.answers = { StartTransientUnit: [{ result: "failed" }] };
    await assert.rejects(
      createContainer(daemon, pod, SLEEP),
      /systemd unit cri-containerd-[0-9a-f]{64}\.scope: .*was not started: failed/,
    );
    await assertNothingLeft(daemon, nothing);
    for (const directory of directoriesOf(slicePath(SLICE)))
      assert.deepEqual(
        readdirSync(directory).filter((name) => name.endsWith(".scope")),
        [],
      );
    await daemon.client.runtime.removePodSandbox({ podSandboxId: pod.id });
  });

  test("a bus that is started anew, and a daemon that is, know the scopes", async () => {
    const pod = await runPod(daemon, POD);
    systemd.answers = { StartTransientUnit: [{ lost: true }] };
    const id = await startContainer(daemon, pod, SLEEP);
    systemd.answers = { StopUnit: [{ lost: true }] };
    await daemon.kill("SIGKILL");
    await daemon.startAgain();
    assert.equal((await status(daemon, id)).state, 1);
    assert.equal(await sh(daemon, id, "echo there"), "there\n");
    await daemon.client.runtime.updateContainerResources({ containerId: id, linux: { cpuShares: 300n } });
    await daemon.client.runtime.removePodSandbox({ podSandboxId: pod.id });
    assert.ok(stopped(id));
    assert.ok(!directoriesOf(scopeOf(id)).some((directory) => existsSync(directory)));
  });

  test("a handler's binary is told --systemd-cgroup, and the scope as slice:prefix:name", async () => {
    const script = `#!/bin/sh\necho "$@" >>${dir}/calls\nfor arg; do [ "$last" = --bundle ] && cp "$arg/config.json" ${dir}/; last=$arg; done\nexit 1\n`;
    writeFileSync(`${dir}/runtime`, script, { mode: 0o755 });
    const pod = await runPod(daemon, POD, "script");
    await assert.rejects(createContainer(daemon, pod, SLEEP), /runtime/);
    const calls = readFileSync(`${dir}/calls`, "utf8").trim().split("\n");
    assert.ok(calls.length >= 2, "create and delete");
    for (const call of calls) assert.match(call, /--systemd-cgroup (create|delete|features)\b/);
    const spec = JSON.parse(readFileSync(`${dir}/config.json`, "utf8")) as { linux: { cgroupsPath: string } };
    assert.match(spec.linux.cgroupsPath, new RegExp(`^${SLICE}:cri-containerd:[0-9a-f]{64}$`));
    await daemon.client.runtime.removePodSandbox({ podSandboxId: pod.id });
  });
});
