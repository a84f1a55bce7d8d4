/** GPUs shared by MPS: the control daemons, and the device plugin that tells containers of them. */
import assert from "node:assert/strict";
import { spawn, spawnSync } from "node:child_process";
import { appendFileSync, existsSync, mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { after, before, describe, type TestContext, test } from "node:test";
import * as api from "@berth/spec/device-plugin";
import { parseMpsCommand } from "../src/mps/command.ts";
import { MpsDaemon } from "../src/mps/daemon.ts";
import { MpsService } from "../src/mps/service.ts";
import { halfOfMemory } from "../src/mps/shm.ts";
import { LogTail } from "../src/mps/tail.ts";
import { PluginMetrics } from "../src/plugin/metrics.ts";
import { assertMpsCan } from "../src/plugin/nvidia/mps.ts";
import { NvidiaPlugin } from "../src/plugin/nvidia/plugin.ts";
import { checkSettings, type NvidiaSettings } from "../src/plugin/nvidia/settings.ts";
import { xidRules } from "../src/plugin/nvidia/xids.ts";
import type { Log } from "../src/plugin/registrations.ts";
import { makeNvml } from "../src/testing/driver-root.ts";
import { FakeKubelet } from "../src/testing/kubelet.ts";
import { type FakeMps, makeFakeMps } from "../src/testing/mps.ts";

const uuid = (index: number): string => `GPU-${index}1111111-2222-3333-4444-555555555555`;
const gpu = (index: number, mig = 0): string =>
  `gpu ${uuid(index)} ${index} 00000000:0${index + 1}:00.0 ${mig} NVIDIA A100\n`;
const TWO = `driver 525.147.05\nmemory 40960\n${gpu(0)}${gpu(1)}`;
const MPS = `version: v1
sharing:
  mps:
    renameByDefault: true
    resources:
    - name: nvidia.com/gpu
      replicas: 4
`;
const silent: Log = { info() {}, warn() {}, error() {} };
const { method } = api.DevicePlugin;
const SHARED = "nvidia.com/gpu.shared";

test("half of the memory is what a tmpfs of it may take", () => {
  assert.equal(halfOfMemory("MemTotal:       16384001 kB\nMemFree: 1 kB\n"), "8192000k");
  assert.equal(halfOfMemory("nothing"), "65536k");
});

test("a log's lines are told as they come, also when it comes late", async (t) => {
  const dir = mkdtempSync(join(tmpdir(), "berth-tail-"));
  t.after(() => rmSync(dir, { recursive: true }));
  const lines: string[] = [];
  let changed = Promise.withResolvers<void>();
  const until = async (count: number): Promise<void> => {
    while (lines.length < count) {
      await changed.promise;
      changed = Promise.withResolvers<void>();
    }
  };
  const tail = await LogTail.open(join(dir, "control.log"), (line) => {
    lines.push(line);
    changed.resolve();
  });
  writeFileSync(join(dir, "control.log"), "one\ntw");
  await until(1);
  appendFileSync(join(dir, "control.log"), "o\nthree\n");
  await until(3);
  assert.deepEqual(lines, ["one", "two", "three"]);
  tail.close();
});

describe("MPS", () => {
  let dir = "";
  let mps: FakeMps;
  let number = 0;
  const path = process.env["PATH"] ?? "";
  before(() => {
    dir = mkdtempSync(join(tmpdir(), "berth-mps-"));
    makeNvml(join(dir, "driver"));
    process.env["FAKE_NVML"] = join(dir, "nvml.txt");
  });
  after(() => {
    process.env["PATH"] = path;
    delete process.env["FAKE_NVML"];
    rmSync(dir, { recursive: true, force: true });
  });

  /** Each test has daemons of its own. */
  function prepare(config: string, nvml: string): { readonly root: string; readonly settings: NvidiaSettings } {
    const own = join(dir, String(number++));
    mkdirSync(own);
    mps = makeFakeMps(own);
    process.env["PATH"] = `${mps.bin}:${path}`;
    writeFileSync(join(dir, "nvml.txt"), nvml);
    rmSync(join(dir, "nvml.txt.modes"), { force: true });
    writeFileSync(join(own, "config.yaml"), config);
    const root = join(own, "mps");
    const argv = ["--config-file", join(own, "config.yaml"), "--mps-root-ctr-path", root];
    const { flags, ...rest } = parseMpsCommand(argv).readSettings(() => {});
    const settings = { ...rest, flags: { ...flags, mpsRoot: "/host/mps", containerDriverRoot: join(dir, "driver") } };
    return { root, settings };
  }
  const library = (): string => join(dir, "driver/usr/lib/x86_64-linux-gnu/libnvidia-ml.so.1");
  const startService = async (t: TestContext, settings: NvidiaSettings, log = silent): Promise<MpsService> => {
    const service = await MpsService.start({ settings, library: library(), log });
    t.after(() => service.close());
    return service;
  };
  const modes = (): string[] => readFileSync(join(dir, "nvml.txt.modes"), "utf8").trim().split("\n");

  test("a daemon for each resource, with the limits of its shares; all of it goes at the end", async (t) => {
    const { root, settings } = prepare(MPS, TWO);
    const lines: string[] = [];
    const logged = Promise.withResolvers<void>();
    const info = (_: object, text: string): void => {
      lines.push(text);
      if (text.endsWith("Start")) logged.resolve();
    };
    const service = await startService(t, settings, { ...silent, info });
    const pipes = join(root, SHARED, "pipe");
    assert.deepEqual(mps.told(), [
      `${pipes} start`,
      `${pipes} set_default_device_pinned_mem_limit 0 10240M`,
      `${pipes} set_default_device_pinned_mem_limit 1 10240M`,
      `${pipes} set_default_active_thread_percentage 25`,
    ]);
    assert.deepEqual(modes(), [`${uuid(0)} 3`, `${uuid(1)} 3`], "exclusive process");
    assert.ok(existsSync(join(root, ".ready")) && existsSync(join(root, SHARED, ".started")));
    await logged.promise;
    await service.close();
    assert.equal(mps.told().at(-1), `${pipes} quit`);
    assert.deepEqual(modes().slice(2), [`${uuid(0)} 0`, `${uuid(1)} 0`], "default");
    for (const name of [".ready", `${SHARED}/.started`, `${SHARED}/log`])
      assert.ok(!existsSync(join(root, name)), name);
  });

  test("a daemon that does not answer is started anew; one that cannot start is tried again", async (t) => {
    const { root, settings } = prepare(MPS, TWO);
    const service = await startService(t, settings);
    await service.check();
    rmSync(join(root, SHARED, "pipe/control"));
    mps.mayStart(false);
    await service.check();
    assert.deepEqual(service.resources, []);
    assert.ok(!existsSync(join(root, ".ready")) && !existsSync(join(root, SHARED, ".started")));
    mps.mayStart(true);
    await service.check();
    assert.deepEqual(service.resources, [SHARED]);
    assert.ok(existsSync(join(root, ".ready")) && existsSync(join(root, SHARED, ".started")));
  });

  test("a daemon of a process that was killed is ended first", async (t) => {
    const { root, settings } = prepare(MPS, TWO);
    mkdirSync(join(root, SHARED, "pipe"), { recursive: true });
    writeFileSync(join(root, SHARED, "pipe/control"), "");
    writeFileSync(join(root, SHARED, ".started"), "");
    const service = await startService(t, settings);
    assert.deepEqual(service.resources, [SHARED]);
    assert.deepEqual(
      mps
        .told()
        .map((line) => line.split(" ")[1])
        .slice(0, 3),
      ["get_default_active_thread_percentage", "quit", "start"],
    );
  });

  test("what MPS cannot share: too many clients, MIG devices; what goes without it", async (t) => {
    const many = MPS.replace("replicas: 4", "replicas: 49");
    const tooMany = prepare(many, TWO);
    await assert.rejects(startService(t, tooMany.settings), /maximum allowed replicas exceeded: 49 > 48/);
    const old = prepare(MPS.replace("replicas: 4", "replicas: 17"), `${TWO}compute 7 0\n`);
    await assert.rejects(startService(t, old.settings), /17 > 16/);
    const warnings: string[] = [];
    const single = MPS.replace("sharing:", "flags:\n  migStrategy: single\nsharing:");
    const openNvml = (): never => assert.fail("NVML is not asked");
    const part = {
      uuid: "MIG-a",
      index: "0:0",
      paths: [],
      numaNodes: [],
      profile: "1g.5gb",
      memory: 1,
      compute: "8.0",
    };
    const gpus = [{ ...part, parent: { uuid: uuid(0), gpuInstance: 1, computeInstance: 0 } }];
    const options = { resource: "nvidia.com/gpu", gpus, replicas: 2, root: "/mps", openNvml, log: silent };
    assert.throws(() => new MpsDaemon(options), /MPS sharing is not supported for MIG devices/);
    assert.throws(() => assertMpsCan(gpus, old.settings), /sharing using MPS is not supported for MIG devices/);
    const none = prepare("version: v1\n", TWO);
    const service = await startService(t, none.settings, {
      ...silent,
      info: (_, text: string) => void warnings.push(text),
    });
    assert.deepEqual(service.resources, []);
    assert.match(warnings[0] ?? "", /sharing is not by MPS/);
    assert.ok(existsSync(join(none.root, ".ready")));
    assert.throws(
      () => checkSettings({ ...tooMany.settings, flags: { ...tooMany.settings.flags, mpsRoot: "" } }),
      /--mps-root/,
    );
    const { settings } = prepare(single, TWO);
    assert.throws(
      () => checkSettings({ ...settings, flags: { ...settings.flags, migStrategy: "mixed" } }),
      /--mig-strategy=mixed is not supported with MPS/,
    );
  });

  test("the plugin waits for the daemon, tells containers of it, and marks every share while it is gone", async (t) => {
    const { root, settings } = prepare(MPS, TWO);
    const plugins = join(root, "../plugins");
    mkdirSync(plugins);
    const kubelet = new FakeKubelet(plugins);
    await kubelet.start();
    const metrics = new PluginMetrics();
    const plugin = await NvidiaPlugin.start({
      settings,
      rules: xidRules("all", undefined, () => {}),
      kubeletSocket: kubelet.socket,
      cdiDir: join(root, "cdi"),
      log: silent,
      retryMs: 500,
      metrics,
    });
    t.after(async () => {
      await plugin.close();
      await kubelet.stop();
    });
    assert.equal(kubelet.resources.size, 0);
    assert.match(
      await metrics.exposition(),
      /^berth_device_plugin_mps_daemon_up\{resource="nvidia.com\/gpu.shared"\} 0$/m,
    );
    const service = await startService(t, settings);
    // By what the daemon leaves in its directory, without waiting for the next look.
    await kubelet.until(() => (kubelet.resources.get(SHARED)?.lists.length ?? 0) > 0);
    const resource = kubelet.resources.get(SHARED);
    assert.ok(resource);
    assert.equal(Object.keys(resource.lists[0] ?? {}).length, 8);
    const allocate = (ids: string[]) => resource.call(method.allocate, { containerRequests: [{ devicesIds: ids }] });
    const { containerResponses } = await allocate([`${uuid(1)}::2`]);
    assert.deepEqual(containerResponses[0]?.envs, {
      CUDA_MPS_PIPE_DIRECTORY: join(root, SHARED, "pipe"),
      NVIDIA_VISIBLE_DEVICES: uuid(1),
    });
    assert.deepEqual(
      containerResponses[0]?.mounts.map(({ hostPath, containerPath, readOnly }) => [hostPath, containerPath, readOnly]),
      [
        [`/host/mps/${SHARED}/pipe`, join(root, SHARED, "pipe"), false],
        ["/host/mps/shm", "/dev/shm", false],
      ],
    );
    await assert.rejects(
      allocate([`${uuid(1)}::2`, `${uuid(0)}::0`]),
      /maximum request size for shared resources is 1; found 2/,
      "unless the file says otherwise",
    );
    const health = (): string[] => [...new Set(Object.values(resource.lists.at(-1) ?? {}))];
    rmSync(join(root, SHARED, "pipe/control"));
    await plugin.examine();
    await kubelet.until(() => health().join() === "Unhealthy");
    await assert.rejects(allocate([`${uuid(1)}::2`]), /Cannot find MPS control daemon process/);
    await service.check();
    await kubelet.until(() => health().join() === "Healthy");
    assert.match(
      await metrics.exposition(),
      /^berth_device_plugin_mps_daemon_up\{resource="nvidia.com\/gpu.shared"\} 1$/m,
    );
  });

  test("a container gets one share, unless the file says that it may have more", () => {
    const { settings } = prepare(MPS.replace("mps:", "mps:\n    failRequestsGreaterThanOne: false"), TWO);
    assert.equal(settings.sharing?.failRequestsGreaterThanOne, false);
    assert.equal(prepare(MPS, TWO).settings.sharing?.failRequestsGreaterThanOne, true);
  });

  test("the command: daemons until SIGTERM", async (t) => {
    const { root } = prepare(`${MPS}flags:\n  plugin:\n    containerDriverRoot: ${join(dir, "driver")}\n`, TWO);
    const command = new URL("../../../bin/berth-mps-control-daemon", import.meta.url).pathname;
    const argv = ["--config-file", join(root, "../config.yaml"), "--mps-root-ctr-path", root];
    const child = spawn(command, argv, { stdio: ["ignore", "pipe", "inherit"] });
    t.after(() => child.kill("SIGKILL"));
    let output = "";
    const running = Promise.withResolvers<void>();
    child.stdout.on("data", (chunk: Buffer) => {
      output += chunk.toString();
      if (output.includes('"msg":"ready"')) running.resolve();
    });
    const ended = new Promise((resolve) => child.once("close", resolve));
    void ended.then(() => running.reject(new Error(output)));
    await running.promise;
    assert.ok(existsSync(join(root, ".ready")));
    child.kill("SIGTERM");
    assert.equal(await ended, 0, output);
    assert.equal(mps.told().at(-1), `${join(root, SHARED, "pipe")} quit`);
    const bad = spawnSync(command, ["--config-file", join(root, "none")], { encoding: "utf8" });
    assert.equal(bad.status, 1);
    assert.match(bad.stdout, /ENOENT/);
  });

  const skip = process.getuid?.() === 0 ? false : "needs root, for mounts";
  test("mount-shm: a tmpfs in its place, once, however often", { skip }, () => {
    const { root } = prepare(MPS, TWO);
    const command = new URL("../../../bin/berth-mps-control-daemon", import.meta.url).pathname;
    const mount = `${command} mount-shm --mps-root-ctr-path ${root}`;
    const script = `set -e; ${mount}; ${mount}; grep " ${root}/shm " /proc/self/mountinfo`;
    const { status, stdout, stderr } = spawnSync("unshare", ["-m", "sh", "-c", script], { encoding: "utf8" });
    assert.equal(status, 0, stderr);
    assert.match(stdout.trim(), /^[^\n]*rw,nosuid,nodev,noexec,relatime[^\n]*- tmpfs shm rw,size=\d+k[^\n]*$/);
  });
});
