/** Statistics and metrics: the numbers of the CRI are those of the cgroup's files. Needs root. */
import assert from "node:assert/strict";
import { readFileSync, readdirSync, rmdirSync } from "node:fs";
import { dirname } from "node:path";
import { after, before, describe, test } from "node:test";
import { cgroupDirectories, type HostFacts, readHost } from "@berth/kernel";
import { TestDaemon } from "./support/daemon.ts";
import { OWN_PID, collect, runPod, sh, startContainer, status } from "./support/pods.ts";

const MEMORY = 64 << 20;
const SLEEP = "while :; do sleep 1000; done";

describe("statistics", () => {
  let daemon: TestDaemon;
  let host: HostFacts;
  let pod: Awaited<ReturnType<typeof runPod>>;
  let parent: string;
  let id: string;
  before(async () => {
    daemon = await TestDaemon.start();
    host = readHost();
    parent = `/berth-stats-${process.pid}/pod`;
    pod = await runPod(daemon, {
      labels: { app: "web" },
      linux: { cgroupParent: parent, securityContext: OWN_PID },
    });
    id = await startContainer(daemon, pod, SLEEP, {
      labels: { tier: "front" },
      linux: {
        securityContext: OWN_PID,
        resources: { memoryLimitInBytes: BigInt(MEMORY), cpuQuota: 50_000n, cpuPeriod: 100_000n, cpuShares: 512n },
      },
    });
    // Something to count: CPU, memory that stays, a file in the writable layer, traffic.
    await sh(daemon, id, "i=0; while [ $i -lt 100000 ]; do i=$((i+1)); done");
    await sh(
      daemon,
      id,
      "dd if=/dev/zero of=/dev/shm/m bs=1M count=8 2>/dev/null; dd if=/dev/zero of=/f bs=1M count=2 2>/dev/null",
    );
  });
  after(async () => {
    await daemon[Symbol.asyncDispose]();
    // The pod's cgroup is its maker's to remove, as the kubelet does.
    const { unified, v1 } = cgroupDirectories(parent, host.cgroups);
    for (const directory of [...v1.map((one) => one.directory), ...(unified === undefined ? [] : [unified])])
      for (const one of [directory, dirname(directory)]) rmdirSync(one);
  });

  /** A file of a cgroup's, in the hierarchy that has the controller on this machine. */
  const file = (path: string, controller: string, v1: string, v2: string): string => {
    const directories = cgroupDirectories(path, host.cgroups);
    const old = directories.v1.find(({ hierarchy }) => hierarchy.controllers.includes(controller))?.directory;
    return readFileSync(old === undefined ? `${directories.unified}/${v2}` : `${old}/${v1}`, "utf8").trim();
  };
  const near = (got: bigint | undefined, wanted: bigint, slack: bigint, what: string): void => {
    assert.ok(got !== undefined, `${what} is absent`);
    const off = got > wanted ? got - wanted : wanted - got;
    assert.ok(off <= slack, `${what}: ${got}, and the cgroup's file says ${wanted}`);
  };
  const cgroupOf = async (containerId: string): Promise<string> => {
    const { info } = await daemon.client.runtime.containerStatus({ containerId, verbose: true });
    return (JSON.parse(info.info ?? "") as { cgroupPath: string }).cgroupPath;
  };

  test("a container's numbers are its cgroup's", async () => {
    const { stats } = await daemon.client.runtime.containerStats({ containerId: id });
    const path = await cgroupOf(id);
    assert.equal(path, `${parent}/${id}`);
    const usage = BigInt(file(path, "memory", "memory.usage_in_bytes", "memory.current"));
    near(stats?.memory?.usageBytes?.value, usage, 1n << 20n, "memory.usage_bytes");
    const inactive = BigInt(
      /^(?:total_)?inactive_file (\d+)$/m.exec(file(path, "memory", "memory.stat", "memory.stat"))?.[1] ?? -1,
    );
    near(stats?.memory?.workingSetBytes?.value, usage - inactive, 1n << 20n, "memory.working_set_bytes");
    near(
      stats?.memory?.availableBytes?.value,
      BigInt(MEMORY) - (usage - inactive),
      1n << 20n,
      "memory.available_bytes",
    );
    const cpu = host.cgroups.v1.some(({ controllers }) => controllers.includes("cpuacct"))
      ? BigInt(file(path, "cpuacct", "cpuacct.usage", ""))
      : BigInt(/usage_usec (\d+)/.exec(file(path, "cpu", "", "cpu.stat"))?.[1] ?? -1) * 1000n;
    near(stats?.cpu?.usageCoreNanoSeconds?.value, cpu, 50_000_000n, "cpu.usage_core_nano_seconds");
    assert.ok((stats?.cpu?.usageCoreNanoSeconds?.value ?? 0n) > 10_000_000n, "100,000 turns of a loop take 10 ms");
    near(stats?.writableLayer?.usedBytes?.value, 2n << 20n, 1n << 20n, "writable_layer.used_bytes");
    assert.equal(stats?.swap?.swapUsageBytes?.value, 0n);
    assert.equal(stats?.attributes?.labels.tier, "front");
    if (host.cgroups.unified) {
      const total = BigInt(
        /some .*total=(\d+)/.exec(
          readFileSync(`${host.cgroups.unified.mountpoint}${path}/cpu.pressure`, "utf8"),
        )?.[1] ?? -1,
      );
      near(stats?.cpu?.psi?.Some?.Total, total * 1000n, 1_000_000_000n, "cpu.psi.some.total");
      assert.ok(stats?.io?.psi?.Full && stats.memory?.psi?.Some);
    }
  });

  test("CPU as a rate appears with the second look", async () => {
    // A look within a tenth of a second of another has that one's rate.
    await sh(daemon, id, "sleep 0.2");
    const look = async () => (await daemon.client.runtime.containerStats({ containerId: id })).stats?.cpu;
    const first = await look();
    await sh(daemon, id, "i=0; while [ $i -lt 200000 ]; do i=$((i+1)); done");
    const second = await look();
    assert.ok(first?.usageCoreNanoSeconds && second?.usageCoreNanoSeconds);
    const used = second.usageCoreNanoSeconds.value - first.usageCoreNanoSeconds.value;
    assert.ok(used > 20_000_000n, `200,000 turns of a loop take more than ${used} ns`);
    const passed = Number(second.timestamp - first.timestamp);
    near(second.usageNanoCores?.value, BigInt(Math.round((Number(used) * 1e9) / passed)), 1_000_000n, "CPU as a rate");
  });

  test("a pod's numbers: its own cgroup, its interface, its containers", async () => {
    await sh(daemon, id, "ping -c 2 -W 30 $(ip route | sed -n 's/^default via \\([0-9.]*\\).*/\\1/p')");
    const { stats } = await daemon.client.runtime.podSandboxStats({ podSandboxId: pod.id });
    const { linux, attributes } = stats ?? {};
    assert.equal(attributes?.labels.app, "web");
    near(
      linux?.memory?.usageBytes?.value,
      BigInt(file(parent, "memory", "memory.usage_in_bytes", "memory.current")),
      1n << 20n,
      "the pod's memory",
    );
    const own = await sh(daemon, id, "cat /proc/net/dev");
    const [rx = "", tx = ""] =
      /eth0:\s*(.*)$/m
        .exec(own)?.[1]
        ?.split(/\s+/)
        .filter((_, at) => at === 0 || at === 8) ?? [];
    near(linux?.network?.defaultInterface?.rxBytes?.value, BigInt(rx), 4096n, "eth0 received");
    near(linux?.network?.defaultInterface?.txBytes?.value, BigInt(tx), 4096n, "eth0 sent");
    assert.equal(linux?.network?.defaultInterface?.name, "eth0");
    assert.deepEqual(
      linux?.containers.map((container) => container.attributes?.id),
      [id],
    );
    assert.ok((linux?.process?.processCount?.value ?? 0n) >= 1n);
    assert.ok((linux?.process?.processCount?.value ?? 99n) < 10n);
  });

  test("a pod without a process has its interface's numbers too; one on the host's network has none", async () => {
    const empty = await runPod(daemon, {});
    const { stats } = await daemon.client.runtime.podSandboxStats({ podSandboxId: empty.id });
    assert.equal(stats?.linux?.network?.defaultInterface?.name, "eth0");
    const onHost = await runPod(daemon, {
      linux: { securityContext: { namespaceOptions: { ...OWN_PID.namespaceOptions, network: 2 } } },
    });
    const { stats: hosts } = await daemon.client.runtime.podSandboxStats({ podSandboxId: onHost.id });
    assert.equal(hosts?.linux?.network, undefined);
    for (const { id: podSandboxId } of [empty, onHost]) await daemon.client.runtime.removePodSandbox({ podSandboxId });
  });

  test("lists and streams answer the same, filtered", async () => {
    const { runtime } = daemon.client;
    const other = await runPod(daemon, {});
    const second = await startContainer(daemon, other, SLEEP);
    const ids = (list: readonly { attributes?: { id: string } | undefined }[]) =>
      list.map(({ attributes }) => attributes?.id ?? "").sort();
    assert.deepEqual(ids((await runtime.listContainerStats({})).stats), [id, second].sort());
    assert.deepEqual(ids((await runtime.listContainerStats({ filter: { labelSelector: { tier: "front" } } })).stats), [
      id,
    ]);
    assert.deepEqual(ids((await runtime.listContainerStats({ filter: { podSandboxId: other.id } })).stats), [second]);
    assert.deepEqual(ids((await runtime.listContainerStats({ filter: { id: second } })).stats), [second]);
    assert.deepEqual(ids((await runtime.listPodSandboxStats({})).stats), [pod.id, other.id].sort());
    assert.deepEqual(ids((await runtime.listPodSandboxStats({ filter: { labelSelector: { app: "web" } } })).stats), [
      pod.id,
    ]);
    assert.deepEqual(ids((await runtime.listPodSandboxStats({ filter: { id: other.id } })).stats), [other.id]);
    const containers = await collect(runtime.streamContainerStats({}));
    assert.deepEqual(ids(containers.flatMap((batch) => batch.containerStats)), [id, second].sort());
    const pods = await collect(runtime.streamPodSandboxStats({ filter: { id: pod.id } }));
    assert.deepEqual(ids(pods.flatMap((batch) => batch.podSandboxStats)), [pod.id]);
    await runtime.removePodSandbox({ podSandboxId: other.id });
  });

  test("an exited container and a stopped pod have what is left of them", async () => {
    const other = await runPod(daemon, {});
    const brief = await startContainer(daemon, other, SLEEP);
    await daemon.client.runtime.stopContainer({ containerId: brief, timeout: 0n });
    const { stats } = await daemon.client.runtime.containerStats({ containerId: brief });
    assert.equal(stats?.attributes?.id, brief);
    assert.equal(stats?.cpu, undefined);
    assert.ok(stats?.writableLayer);
    await daemon.client.runtime.stopPodSandbox({ podSandboxId: other.id });
    const { stats: stopped } = await daemon.client.runtime.podSandboxStats({ podSandboxId: other.id });
    assert.deepEqual([stopped?.attributes?.id, stopped?.linux], [other.id, undefined]);
    await daemon.client.runtime.removePodSandbox({ podSandboxId: other.id });
  });

  test("metrics: every one is described, with as many label values as labels, in cAdvisor's names", async () => {
    const { descriptors } = await daemon.client.runtime.listMetricDescriptors({});
    const labels = new Map(descriptors.map((descriptor) => [descriptor.name, descriptor.labelKeys]));
    assert.equal(labels.size, descriptors.length, "a name is described once");
    for (const { name, help } of descriptors) assert.match(`${name} ${help}`, /^container_[a-z_]+ [A-Z].*\.$/);
    const { podMetrics } = await daemon.client.runtime.listPodSandboxMetrics({});
    const mine = podMetrics.find(({ podSandboxId }) => podSandboxId === pod.id);
    const ofContainer = mine?.containerMetrics.find(({ containerId }) => containerId === id)?.metrics ?? [];
    for (const metric of [...(mine?.metrics ?? []), ...ofContainer]) {
      assert.equal(metric.labelValues.length, labels.get(metric.name)?.length, metric.name);
      assert.ok(metric.timestamp > 0n && metric.value !== undefined, metric.name);
    }
    const value = (name: string, ...own: string[]): bigint | undefined =>
      [...(mine?.metrics ?? []), ...ofContainer].find(
        (metric) => metric.name === name && own.every((label) => metric.labelValues.includes(label)),
      )?.value?.value;
    const path = await cgroupOf(id);
    near(
      value("container_memory_usage_bytes"),
      BigInt(file(path, "memory", "memory.usage_in_bytes", "memory.current")),
      1n << 20n,
      "memory",
    );
    near(value("container_fs_usage_bytes"), 2n << 20n, 1n << 20n, "writable layer");
    assert.equal(value("container_spec_memory_limit_bytes"), BigInt(MEMORY));
    assert.deepEqual(
      [value("container_spec_cpu_quota"), value("container_spec_cpu_period"), value("container_spec_cpu_shares")],
      [50_000n, 100_000n, 512n],
    );
    assert.equal(value("container_processes"), 2n);
    assert.equal(value("container_tasks_state", "sleeping"), 2n);
    assert.equal(value("container_start_time_seconds"), (await status(daemon, id)).startedAt / 1_000_000_000n);
    assert.ok((value("container_network_receive_bytes_total", "eth0") ?? 0n) > 0n);
    assert.ok((value("container_cpu_cfs_periods_total") ?? 0n) > 0n);
    const described = new Set([...(mine?.metrics ?? []), ...ofContainer].map(({ name }) => name));
    for (const name of [
      "container_cpu_usage_seconds_total",
      "container_memory_working_set_bytes",
      "container_oom_events_total",
      "container_threads",
      "container_file_descriptors",
      "container_ulimits_soft",
    ])
      assert.ok(described.has(name), name);
    const streamed = await collect(daemon.client.runtime.streamPodSandboxMetrics({}));
    assert.deepEqual(
      streamed.flatMap((batch) => batch.podSandboxMetrics).map(({ podSandboxId }) => podSandboxId),
      [pod.id],
    );
  });

  test("the image file system is as full as its files", async () => {
    const { imageFilesystems } = await daemon.client.images.imageFsInfo({});
    const [usage] = imageFilesystems;
    assert.equal(usage?.fsId?.mountpoint, daemon.root);
    assert.ok((usage?.usedBytes?.value ?? 0n) > 100_000n);
    assert.ok((usage?.inodesUsed?.value ?? 0n) > 0n);
    assert.ok(BigInt(readdirSync(daemon.root, { recursive: true }).length) + 10n >= (usage?.inodesUsed?.value ?? 0n));
  });
});
