/** Limits: given at creation, changed while the container runs, and what no machine can do is refused by name. Needs root. */
import assert from "node:assert/strict";
import { spawnSync } from "node:child_process";
import { readFileSync } from "node:fs";
import { after, before, describe, test } from "node:test";
import { cgroupDirectories, type HostFacts, readHost } from "@berth/kernel";
import { status as codes } from "@grpc/grpc-js";
import { TestDaemon } from "./support/daemon.ts";
import { OWN_PID, createContainer, runPod, sh, startContainer, status } from "./support/pods.ts";

const SLEEP = "while :; do sleep 1000; done";
const limited = (resources: object): object => ({ linux: { securityContext: OWN_PID, resources } });

describe("resources", () => {
  let daemon: TestDaemon;
  let host: HostFacts;
  let pod: Awaited<ReturnType<typeof runPod>>;
  before(async () => {
    daemon = await TestDaemon.start();
    host = readHost();
    pod = await runPod(daemon);
  });
  after(async () => {
    await daemon[Symbol.asyncDispose]();
  });
  const verbose = async (containerId: string): Promise<{ cgroupPath: string; pid: number }> => {
    const { info } = await daemon.client.runtime.containerStatus({ containerId, verbose: true });
    return JSON.parse(info.info ?? "") as { cgroupPath: string; pid: number };
  };
  /** Undefined where this machine has no such controller. */
  const setting = async (id: string, controller: string, v1: string, v2: string = v1): Promise<string | undefined> => {
    const directories = cgroupDirectories((await verbose(id)).cgroupPath, host.cgroups);
    const old = directories.v1.find(({ hierarchy }) => hierarchy.controllers.includes(controller))?.directory;
    if (old !== undefined) return readFileSync(`${old}/${v1}`, "utf8").trim();
    if (!host.cgroups.unified?.controllers.includes(controller)) return undefined;
    return readFileSync(`${directories.unified}/${v2}`, "utf8").trim();
  };
  const update = (containerId: string, linux: object): Promise<unknown> =>
    daemon.client.runtime.updateContainerResources({ containerId, linux });

  test('the number of processes: unified["pids.max"], whatever the cgroups\' version', async (t) => {
    const id = await startContainer(daemon, pod, SLEEP, limited({ unified: { "pids.max": "20" } }));
    const most = await setting(id, "pids", "pids.max");
    if (most === undefined) return t.skip("this machine has no pids controller");
    assert.equal(most, "20");
    await assert.rejects(sh(daemon, id, "for i in $(seq 30); do sleep 5 & done; wait"), /fork|Resource temporarily/i);
    await update(id, { unified: { "pids.max": "max" } });
    assert.equal(await setting(id, "pids", "pids.max"), "max");
    assert.deepEqual((await status(daemon, id)).resources?.linux?.unified, { "pids.max": "max" });
    await assert.rejects(update(id, { unified: { "pids.max": "many" } }), (error: Error & { code: number }) => {
      assert.equal(error.code, codes.INVALID_ARGUMENT);
      assert.match(error.message, /unified\["pids\.max"\]: "many"/);
      return true;
    });
  });

  test("what cgroup v1 has no file for is refused by name", async (t) => {
    if (host.cgroups.mode === "v2") return t.skip("this machine has cgroup v2 alone");
    await assert.rejects(
      createContainer(daemon, pod, "true", limited({ unified: { "memory.high": "100000000" } })),
      (error: Error & { code: number }) => {
        assert.equal(error.code, codes.INVALID_ARGUMENT);
        assert.match(error.message, /linux\.resources\.unified.*unified settings need cgroup v2/);
        return true;
      },
    );
  });

  test("CPU, memory and swap change while it runs; what a request leaves out stays", async () => {
    const id = await startContainer(
      daemon,
      pod,
      SLEEP,
      limited({ cpuShares: 256n, cpuQuota: 40_000n, cpuPeriod: 100_000n, memoryLimitInBytes: 64n << 20n }),
    );
    await update(id, { cpuQuota: 60_000n, cpuPeriod: 200_000n });
    assert.match((await setting(id, "cpu", "cpu.cfs_quota_us", "cpu.max")) ?? "60000", /^60000( 200000)?$/);
    await update(id, { memoryLimitInBytes: 128n << 20n, memorySwapLimitInBytes: 128n << 20n });
    assert.equal(
      (await setting(id, "memory", "memory.limit_in_bytes", "memory.max")) ?? String(128 << 20),
      String(128 << 20),
    );
    if (host.cgroups.swap)
      assert.equal(
        await setting(id, "memory", "memory.memsw.limit_in_bytes", "memory.swap.max"),
        host.cgroups.mode === "v2" ? "0" : String(128 << 20),
      );
    const now = (await status(daemon, id)).resources?.linux;
    assert.deepEqual(
      [now?.cpuShares, now?.cpuQuota, now?.cpuPeriod, now?.memoryLimitInBytes],
      [256n, 60_000n, 200_000n, 128n << 20n],
    );
    await daemon.kill("SIGKILL");
    await daemon.startAgain();
    assert.equal((await status(daemon, id)).resources?.linux?.cpuQuota, 60_000n, "it survives a restart");
  });

  test("a CPU set, also for a container that has not started", async () => {
    const id = await createContainer(daemon, pod, SLEEP, limited({ cpusetCpus: "0", cpusetMems: "0" }));
    assert.equal((await setting(id, "cpuset", "cpuset.cpus")) ?? "0", "0");
    await daemon.client.runtime.startContainer({ containerId: id });
    assert.match(await sh(daemon, id, "grep Cpus_allowed_list /proc/self/status"), /:\s+0$/m);
    await assert.rejects(update(id, { cpusetCpus: "4000" }), /cpuset/);
  });

  test("huge pages: a limit where the machine has their controller, else a container without it", async () => {
    const id = await startContainer(
      daemon,
      pod,
      SLEEP,
      limited({ hugepageLimits: [{ pageSize: "2Mi", limit: 4n << 20n }] }),
    );
    const limit = await setting(id, "hugetlb", "hugetlb.2MB.limit_in_bytes", "hugetlb.2MB.max").catch(() => undefined);
    if (limit !== undefined) assert.equal(limit, String(4 << 20));
    assert.equal((await status(daemon, id)).resources?.linux?.hugepageLimits[0]?.pageSize, "2Mi");
  });

  test("the OOM score: raised, and lowered as far as this machine allows", async () => {
    const id = await startContainer(daemon, pod, SLEEP, limited({ oomScoreAdj: 500n }));
    assert.equal(await sh(daemon, id, "cat /proc/1/oom_score_adj"), "500\n");
    await update(id, { oomScoreAdj: 700n });
    assert.equal(await sh(daemon, id, "cat /proc/1/oom_score_adj"), "700\n");
    assert.equal((await status(daemon, id)).resources?.linux?.oomScoreAdj, 700n);
    if ((host.capabilities.effective & (1n << 24n)) === 0n)
      await assert.rejects(update(id, { oomScoreAdj: -900n }), /oom_score_adj: -900 .*CAP_SYS_RESOURCE/);
  });

  test("a pod's resources are recorded, and survive a restart", async () => {
    const other = await runPod(daemon);
    await daemon.client.runtime.updatePodSandboxResources({
      podSandboxId: other.id,
      overhead: { cpuShares: 10n },
      resources: { memoryLimitInBytes: 1n << 30n },
    });
    await daemon.kill("SIGKILL");
    await daemon.startAgain();
    const { info } = await daemon.client.runtime.podSandboxStatus({ podSandboxId: other.id, verbose: true });
    const { config } = JSON.parse(info.info ?? "") as { config: { linux: Record<string, Record<string, string>> } };
    assert.deepEqual(
      [config.linux.overhead, config.linux.resources],
      [{ cpuShares: "10" }, { memoryLimitInBytes: String(1 << 30) }],
    );
    await daemon.client.runtime.stopPodSandbox({ podSandboxId: other.id });
    await assert.rejects(
      daemon.client.runtime.updatePodSandboxResources({ podSandboxId: other.id }),
      /is notready; only a ready one/,
    );
    await daemon.client.runtime.removePodSandbox({ podSandboxId: other.id });
  });

  test("what is for Windows, and what does not run, is refused", async () => {
    const id = await createContainer(daemon, pod, "true");
    const windows = { cpuShares: 1n };
    await assert.rejects(
      daemon.client.runtime.updateContainerResources({ containerId: id, windows }),
      /windows: this node runs Linux/,
    );
    await assert.rejects(daemon.client.runtime.updateContainerResources({ containerId: id }), /linux: missing/);
    await assert.rejects(update("nothing", { cpuShares: 2n }), { code: codes.NOT_FOUND });
    await daemon.client.runtime.stopContainer({ containerId: id, timeout: 0n });
    await assert.rejects(update(id, { cpuShares: 2n }), { code: codes.FAILED_PRECONDITION });
  });

  test("a checkpoint is refused with criu's reason", async () => {
    const id = await startContainer(daemon, pod, SLEEP);
    const checkpoint = (more: object): Promise<unknown> =>
      daemon.client.runtime.checkpointContainer({ containerId: id, location: `${daemon.dir}/c.tar`, ...more });
    await assert.rejects(checkpoint({ location: "here.tar" }), /location: "here.tar" is not an absolute path/);
    await assert.rejects(checkpoint({ timeout: -1n }), /timeout: -1 is negative/);
    // Where criu works tests/checkpoint.test.ts shows what comes of it.
    if (spawnSync("criu", ["check"]).status !== 0) await assert.rejects(checkpoint({}), /checkpoint needs criu/);
    await assert.rejects(checkpoint({ containerId: "nothing" }), { code: codes.NOT_FOUND });
  });
});
