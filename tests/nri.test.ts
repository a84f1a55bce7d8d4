/** NRI through berthd: plugins are told of pods and containers as containerd tells them, adjust what is made, and harm nobody when they refuse. */
import assert from "node:assert/strict";
import { existsSync, mkdirSync, mkdtempSync, readFileSync, rmSync, statSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { after, before, describe, test } from "node:test";
import { TestPlugin, type TestPluginOptions } from "@berth/nri/testing";
import { ContainerState } from "@berth/spec/nri";
import { CODE, TtrpcError } from "@berth/ttrpc";
import { checkout, TestDaemon } from "./support/daemon.ts";
import { assertNothingLeft, inventory } from "./support/leaks.ts";
import { createContainer, exited, runPod, sh, startContainer, status } from "./support/pods.ts";

const RUNC = "/usr/sbin/runc";
const SHIM = "/usr/bin/containerd-shim-runc-v2";
/** By runtime handler: what makes its containers. */
const PROGRAMS = { "": process.execPath, binary: RUNC, shim: SHIM };
const variable = (key: string, value: string) => ({ key, value: Buffer.from(value) });
const refuse = (words: string) => () => Promise.reject(new TtrpcError(CODE.unknown, words));

/** A plugin of the node's own directory: it gives each container a variable, and tells what it was synchronized with. */
const INSTALLED = `#!${process.execPath} --disable-warning=ExperimentalWarning
import { Socket } from "node:net";
import { TestPlugin } from "${checkout}/packages/nri/src/testing/plugin.ts";
const { NRI_PLUGIN_NAME: pluginName, NRI_PLUGIN_IDX: pluginIdx, NRI_PLUGIN_SOCKET: fd } = process.env;
const handlers = {
  synchronize: ({ containers, more }) => (console.log("knows " + containers.map(({ id }) => id).join()), Promise.resolve({ more })),
  createContainer: () => Promise.resolve({ adjust: { env: [{ key: "INSTALLED", value: "yes" }] } }),
};
const plugin = new TestPlugin(new Socket({ fd: Number(fd) }), { handlers });
await plugin.register({ pluginName, pluginIdx });
await plugin.closed;
`;

describe("NRI plugins of berthd", { skip: process.getuid?.() === 0 ? false : "needs root" }, () => {
  const plugins = mkdtempSync(`${tmpdir()}/berth-nri-plugins-`);
  let daemon: TestDaemon;
  const connect = (options: TestPluginOptions = {}): Promise<TestPlugin> =>
    TestPlugin.connect(`${daemon.state}/nri.sock`, options);
  before(async () => {
    const nri = `plugin_path = "${plugins}"\nplugin_request_timeout = "60s"\nplugin_registration_timeout = "60s"\n`;
    const runtimes = "plugins.'io.containerd.cri.v1.runtime'.containerd.runtimes";
    const type = 'runtime_type = "io.containerd.runc.v2"';
    const binary = `[${runtimes}.binary]\n${type}\n[${runtimes}.binary.options]\nBinaryName = "${RUNC}"\n`;
    const shim = `[${runtimes}.shim]\n${type}\nruntime_path = "${SHIM}"\n`;
    daemon = await TestDaemon.start({
      config: `version = 3\n[plugins.'io.containerd.nri.v1.nri']\n${nri}${binary}${shim}`,
    });
  });
  after(async () => {
    await daemon[Symbol.asyncDispose]();
    rmSync(plugins, { recursive: true });
  });

  test("are told of a pod's and a container's life in order, with what is known of them", async () => {
    assert.equal(statSync(`${daemon.state}/nri.sock`).mode & 0o777, 0o600);
    const empty = await inventory(daemon);
    await using plugin = await connect();
    const pod = await runPod(daemon, { labels: { app: "web" }, annotations: { note: "n" } });
    const id = await createContainer(daemon, pod, "sleep 1000", { envs: [variable("A", "1")] });
    await daemon.client.runtime.startContainer({ containerId: id });
    await daemon.client.runtime.updateContainerResources({ containerId: id, linux: { cpuShares: 512n } });
    await daemon.client.runtime.stopContainer({ containerId: id, timeout: 0n });
    await daemon.client.runtime.stopContainer({ containerId: id, timeout: 0n });
    await daemon.client.runtime.removeContainer({ containerId: id });
    await daemon.client.runtime.updatePodSandboxResources({ podSandboxId: pod.id, resources: { cpuShares: 9n } });
    await daemon.client.runtime.stopPodSandbox({ podSandboxId: pod.id });
    await daemon.client.runtime.stopPodSandbox({ podSandboxId: pod.id });
    await daemon.client.runtime.removePodSandbox({ podSandboxId: pod.id });
    assert.deepEqual(
      plugin.told.map(({ call }) => call),
      (
        "configure synchronize runPodSandbox createContainer validateContainerAdjustment postCreateContainer " +
        "startContainer postStartContainer updateContainer postUpdateContainer stopContainer removeContainer " +
        "updatePodSandbox postUpdatePodSandbox stopPodSandbox removePodSandbox"
      ).split(" "),
    );
    const { pod: told } = await plugin.request("runPodSandbox");
    assert.deepEqual(
      [told?.id, told?.namespace, told?.labels, told?.annotations],
      [pod.id, "test", { app: "web" }, { note: "n" }],
    );
    assert.match(told?.linux?.namespaces.find(({ type }) => type === "network")?.path ?? "", /\/netns\/berth-/);
    assert.equal(told?.ips.length, 1);
    const created = await plugin.request("createContainer");
    assert.deepEqual([created.container?.id, created.container?.podSandboxId], [id, pod.id]);
    assert.deepEqual(created.container?.args, ["/bin/sh", "-c", "sleep 1000"]);
    assert.ok(created.container?.env.includes("A=1"));
    assert.ok(created.container?.mounts.some(({ destination }) => destination === "/etc/hosts"));
    assert.match(created.container?.image?.configDigest ?? "", /^sha256:/);
    const { container: started } = await plugin.request("postStartContainer");
    assert.deepEqual([started?.state, (started?.pid ?? 0) > 1], [ContainerState.CONTAINER_RUNNING, true]);
    const { container: stopped } = await plugin.request("stopContainer");
    assert.deepEqual([stopped?.state, stopped?.exitCode], [ContainerState.CONTAINER_STOPPED, 137]);
    await assertNothingLeft(daemon, empty);
  });

  test("are told of the end of a container that nobody has stopped", async () => {
    await using plugin = await connect();
    const pod = await runPod(daemon);
    const id = await startContainer(daemon, pod, "exit 3");
    const { container } = await plugin.request("stopContainer");
    assert.deepEqual([container?.id, container?.exitCode], [id, 3]);
    await exited(daemon, id);
    await daemon.client.runtime.removePodSandbox({ podSandboxId: pod.id });
    assert.equal(plugin.told.filter(({ call }) => call === "stopContainer").length, 1);
  });

  for (const [handler, program] of Object.entries(PROGRAMS))
    test(
      `adjust a container, with the runtime handler "${handler}"`,
      { skip: !existsSync(program) && `needs ${program}` },
      async () => {
        const adjust = {
          annotations: { "nri.test/by": "plugin" },
          env: [{ key: "A", value: "2" }, { key: "-B" }, { key: "C", value: "3" }],
          args: ["/bin/sh", "-c", "echo adjusted; sleep 1000"],
          mounts: [{ destination: "/adjusted", type: "bind", source: plugins, options: ["rbind", "ro"] }],
          rlimits: [{ type: "RLIMIT_CORE", soft: 4096n, hard: 8192n }],
          linux: {
            devices: [{ path: "/dev/nri", type: "c", major: 1n, minor: 3n, fileMode: { value: 0o666 } }],
            resources: { cpu: { shares: { value: 333n } }, memory: { limit: { value: 64n << 20n } } },
            oomScoreAdj: { value: 777n },
          },
        };
        await using plugin = await connect({ handlers: { createContainer: () => Promise.resolve({ adjust }) } });
        const pod = await runPod(daemon, {}, handler);
        const envs = [variable("A", "1"), variable("B", "1")];
        const id = await startContainer(daemon, pod, "sleep 1000", { envs });
        const { container } = await plugin.request("postCreateContainer");
        assert.equal(container?.annotations["nri.test/by"], "plugin");
        assert.equal(await sh(daemon, id, "echo $A-$B-$C"), "2--3\n");
        assert.equal(await sh(daemon, id, "stat -c '%F %t:%T' /dev/nri"), "character special file 1:3\n");
        assert.equal(await sh(daemon, id, "ulimit -c"), "8\n");
        assert.equal(await sh(daemon, id, "cat /proc/1/oom_score_adj"), "777\n");
        await assert.rejects(sh(daemon, id, "echo > /adjusted/file"), /Read-only file system/);
        const { resources, logPath } = await status(daemon, id);
        assert.deepEqual([resources?.linux?.cpuShares, resources?.linux?.memoryLimitInBytes], [333n, 64n << 20n]);
        await daemon.client.runtime.removePodSandbox({ podSandboxId: pod.id });
        assert.match(readFileSync(logPath, "utf8"), /stdout F adjusted/);
      },
    );

  test("choose a cgroup, which is the container's until it is removed", async () => {
    const empty = await inventory(daemon);
    const chosen = (path = ""): string => `${path}-chosen`;
    await using plugin = await connect({
      handlers: {
        createContainer: ({ container }) =>
          Promise.resolve({ adjust: { linux: { cgroupsPath: chosen(container?.linux?.cgroupsPath) } } }),
      },
    });
    const pod = await runPod(daemon);
    const id = await startContainer(daemon, pod, "sleep 1000");
    const { container } = await plugin.request("startContainer");
    assert.match(container?.linux?.cgroupsPath ?? "", new RegExp(`/${id}-chosen$`));
    const { pid } = (await plugin.request("postStartContainer")).container ?? {};
    assert.ok(readFileSync(`/proc/${pid}/cgroup`, "utf8").includes(`${container?.linux?.cgroupsPath}\n`));
    const { stats } = await daemon.client.runtime.containerStats({ containerId: id });
    assert.ok((stats?.memory?.workingSetBytes?.value ?? 0n) > 0n);
    await daemon.client.runtime.removePodSandbox({ podSandboxId: pod.id });
    await assertNothingLeft(daemon, empty);
  });

  test("refuse a pod or a container, of which nothing is left, and then let it be", async () => {
    const empty = await inventory(daemon);
    {
      await using plugin = await connect({ name: "strict", handlers: { runPodSandbox: refuse("no pods today") } });
      await assert.rejects(runPod(daemon), /NRI RunPodSandbox failed: plugin 10-strict: no pods today/);
      await plugin.request("removePodSandbox");
      assert.deepEqual((await daemon.client.runtime.listPodSandbox({})).items, []);
    }
    const pod = await runPod(daemon);
    {
      await using plugin = await connect({ handlers: { createContainer: refuse("not that one") } });
      await assert.rejects(
        createContainer(daemon, pod, "true"),
        /NRI adjustment for container: plugin 10-test: not that one/,
      );
      await plugin.request("stopContainer");
      await plugin.request("removeContainer");
      assert.deepEqual((await daemon.client.runtime.listContainers({})).containers, []);
    }
    {
      await using _ = await connect({ handlers: { startContainer: refuse("not now") } });
      const id = await createContainer(daemon, pod, "true");
      const starting = daemon.client.runtime.startContainer({ containerId: id });
      await assert.rejects(starting, /NRI container start failed: plugin 10-test: not now/);
      assert.equal((await status(daemon, id)).reason, "StartError");
    }
    assert.equal((await exited(daemon, await startContainer(daemon, pod, "exit 0"))).exitCode, 0);
    await daemon.client.runtime.removePodSandbox({ podSandboxId: pod.id });
    await assertNothingLeft(daemon, empty);
  });

  test("a pod that is being made takes no container, and is not listed", async () => {
    const { promise: released, resolve: release } = Promise.withResolvers<object>();
    await using plugin = await connect({ handlers: { runPodSandbox: () => released } });
    const running = runPod(daemon);
    const { pod } = await plugin.request("runPodSandbox");
    assert.deepEqual((await daemon.client.runtime.listPodSandbox({})).items, []);
    await assert.rejects(
      createContainer(daemon, { id: pod?.id ?? "", config: {} }, "true"),
      /is not ready \(it is creating\)/,
    );
    release({});
    const { id } = await running;
    assert.equal(id, pod?.id);
    await daemon.client.runtime.removePodSandbox({ podSandboxId: id });
  });

  test("update containers: what is asked for, others beside it, and of their own accord", async () => {
    const shares = (containerId: string, value: bigint) => ({
      containerId,
      linux: { resources: { cpu: { shares: { value } } } },
    });
    const pod = await runPod(daemon);
    const [one, two] = [
      await startContainer(daemon, pod, "sleep 1000"),
      await startContainer(daemon, pod, "sleep 1000"),
    ];
    const sharesOf = async (id: string): Promise<bigint | undefined> =>
      (await status(daemon, id)).resources?.linux?.cpuShares;
    await using plugin = await connect({
      handlers: { updateContainer: () => Promise.resolve({ update: [shares(one, 600n), shares(two, 700n)] }) },
    });
    await daemon.client.runtime.updateContainerResources({ containerId: one, linux: { cpuShares: 500n } });
    assert.deepEqual([await sharesOf(one), await sharesOf(two)], [600n, 700n]);
    await plugin.update({ update: [shares(one, 800n), { ...shares("nowhere", 1n) }] });
    assert.equal(await sharesOf(one), 800n);
    await daemon.client.runtime.stopContainer({ containerId: two, timeout: 0n });
    await assert.rejects(plugin.update({ update: [shares(two, 900n)] }), /update of some containers failed/);
    await daemon.client.runtime.removePodSandbox({ podSandboxId: pod.id });
  });

  test("one that comes while containers are made learns of each of them", async () => {
    const { promise: released, resolve: release } = Promise.withResolvers<object>();
    const pod = await runPod(daemon);
    const before = await startContainer(daemon, pod, "sleep 1000");
    const { promise: reached, resolve: reach } = Promise.withResolvers<void>();
    const late = connect({ handlers: { synchronize: () => (reach(), released) } });
    await reached;
    const during = Array.from({ length: 4 }, () => createContainer(daemon, pod, "true"));
    release({});
    await using plugin = await late;
    const ids = [before, ...(await Promise.all(during)), await createContainer(daemon, pod, "true")];
    const { containers } = await plugin.request("synchronize");
    const created = plugin.told.filter(({ call }) => call === "createContainer").map(({ request }) => request);
    const known = [
      ...containers.map(({ id }) => id),
      ...created.map((request) => (request as { container: { id: string } }).container.id),
    ];
    assert.deepEqual([...known].sort(), [...ids].sort());
    await daemon.client.runtime.removePodSandbox({ podSandboxId: pod.id });
  });

  test("those of the node's directory are started with berthd, know what runs, and end with it", async () => {
    const pod = await runPod(daemon);
    const before = await startContainer(daemon, pod, "sleep 1000");
    const finished = await startContainer(daemon, pod, "exit 0");
    await exited(daemon, finished);
    mkdirSync(plugins, { recursive: true });
    writeFileSync(`${plugins}/10-installed.mjs`, INSTALLED, { mode: 0o755 });
    await daemon.kill("SIGTERM");
    await daemon.startAgain();
    assert.match(daemon.log, new RegExp(`knows ${before}"`));
    const id = await startContainer(daemon, pod, "sleep 1000");
    assert.equal(await sh(daemon, id, "echo $INSTALLED"), "yes\n");
    rmSync(`${plugins}/10-installed.mjs`);
    await daemon.kill("SIGTERM");
    assert.match(daemon.log, /the plugin's process has ended/);
    await daemon.startAgain();
    assert.equal(await sh(daemon, id, "echo $INSTALLED"), "yes\n");
    await daemon.client.runtime.removePodSandbox({ podSandboxId: pod.id });
  });
});
