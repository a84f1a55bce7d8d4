/** NVIDIA's device plugin before a fake kubelet, on a driver root and an NVML that are made up. */
import assert from "node:assert/strict";
import { spawn } from "node:child_process";
import { appendFileSync, mkdirSync, mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { setTimeout } from "node:timers/promises";
import { after, before, describe, type TestContext, test } from "node:test";
import { parseCdiSpec } from "@berth/cdi";
import * as api from "@berth/spec/device-plugin";
import { choose, parseCommand } from "../src/plugin/command.ts";
import { sizeName } from "../src/nvml/mig-profile.ts";
import { parseSettings } from "../src/plugin/nvidia/file.ts";
import type { Gpu } from "../src/plugin/nvidia/inventory.ts";
import { concerned, resourcesOf } from "../src/plugin/nvidia/offers.ts";
import { NvidiaPlugin, type NvidiaPluginOptions } from "../src/plugin/nvidia/plugin.ts";
import { preferredGpus } from "../src/plugin/nvidia/prefer.ts";
import { DEFAULT_FLAGS, type Flags } from "../src/plugin/nvidia/settings.ts";
import { xidRules } from "../src/plugin/nvidia/xids.ts";
import { makeDriverRoot, makeNode } from "../src/testing/driver-root.ts";
import { FakeKubelet } from "../src/testing/kubelet.ts";

const uuid = (index: number): string => `GPU-${index}1111111-2222-3333-4444-555555555555`;
const gpuLine = (index: number, mig = 0): string =>
  `gpu ${uuid(index)} ${index} 00000000:0${index + 1}:00.0 ${mig} A100\n`;
const FOUR = ["driver 525.147.05\n", "links 4\n", ...[0, 1, 2, 3].map((index) => gpuLine(index))].join("");
const silent = { info() {}, warn() {}, error() {} };
const NO_IMEX = { channelIDs: [], required: false };
const { method } = api.DevicePlugin;

test("profiles of MIG devices are named as nvidia-smi names them", () => {
  const forty = 42_505_273_344;
  assert.equal(sizeName({ gpuSlices: 1, computeSlices: 1, memoryMib: 4864 }, forty), "1g.5gb");
  assert.equal(sizeName({ gpuSlices: 2, computeSlices: 1, memoryMib: 9856 }, forty), "1c.2g.10gb");
  assert.equal(sizeName({ gpuSlices: 7, computeSlices: 7, memoryMib: 40_320 }, forty), "7g.40gb");
});

test("XIDs: applications' own errors count for nothing, and both variables are heard", () => {
  const warnings: string[] = [];
  const rules = (off?: string, on?: string) => xidRules(off, on, (text) => warnings.push(text));
  for (const xid of [13, 31, 43, 45, 68, 109]) assert.ok(rules().isIgnored(xid));
  assert.ok(!rules().isIgnored(79) && !rules().off);
  assert.ok(rules("79, x").isIgnored(79));
  assert.deepEqual(warnings, ['ignoring malformed XID "x"']);
  assert.ok(!rules("79", "79").isIgnored(79) && !rules("", "13").isIgnored(13) && !rules("all", "all").isIgnored(13));
  assert.ok(rules("all").off && rules("xids").off && !rules("all", "79").off);
  assert.ok(rules("all", "79").isIgnored(48) && !rules("all", "79").isIgnored(79));
});

test("whole GPUs: those that reach each other best, leaving the best together", () => {
  const pairs: Record<string, number> = { ab: 100, ac: 10, ad: 10, bc: 10, bd: 10, cd: 50 };
  const score = (one: string, other: string): number => pairs[[one, other].sort().join("")] ?? 0;
  const pick = (available: string, must: string, size: number) =>
    preferredGpus({ available: [...available], must: [...must], size }, score).join("");
  assert.equal(pick("abcd", "", 2), "ab");
  assert.equal(pick("abcd", "c", 2), "cd");
  assert.equal(pick("acd", "", 1), "a", "c and d stay together");
  assert.equal(pick("abcd", "", 4), "abcd");
  assert.throws(() => pick("ab", "", 3), /3 of 2 available devices cannot be given/);
  const many = Array.from({ length: 30 }, (_, index) => `g${index}`);
  assert.equal(new Set(preferredGpus({ available: many, must: ["g7"], size: 15 }, () => 1)).size, 15);
});

test("MIG strategies: one name for each profile, one for all, none", () => {
  const gpu = (id: string, profile?: string, parent?: string): Gpu => ({
    uuid: id,
    index: id,
    paths: [`/dev/${id}`],
    numaNodes: [],
    profile,
    memory: 0,
    compute: "8.0",
    parent: parent === undefined ? undefined : { uuid: parent, gpuInstance: Number(id.at(-1)), computeInstance: 0 },
  });
  const parts = [gpu("m1", "1g.5gb", "b"), gpu("m2", "1g.5gb", "b"), gpu("m3", "1g.5gb+me", "b")];
  const found = (gpus: Gpu[]) => ({
    platform: "nvml" as const,
    gpus,
    divided: new Set(["b"]),
    scores: new Map<string, number>(),
  });
  const names = (gpus: Gpu[], migStrategy: Flags["migStrategy"]) =>
    Object.fromEntries(
      resourcesOf(found(gpus), { flags: { ...DEFAULT_FLAGS, migStrategy }, sharing: undefined, imex: NO_IMEX }).map(
        ({ offer, gpus: own }) => [offer.name, own.map(({ uuid: id }) => id).join(" ")],
      ),
    );
  const all = [gpu("a"), gpu("b"), ...parts];
  assert.deepEqual(names(all, "none"), { "nvidia.com/gpu": "a b" });
  assert.deepEqual(names(all, "mixed"), {
    "nvidia.com/gpu": "a",
    "nvidia.com/mig-1g.5gb": "m1 m2",
    "nvidia.com/mig-1g.5gb.me": "m3",
  });
  assert.deepEqual(names([gpu("b"), ...parts.slice(0, 2)], "single"), { "nvidia.com/gpu": "m1 m2" });
  assert.throws(() => names(all.slice(0, -1), "single"), /configured with the same migEnabled value/);
  assert.throws(
    () => names(all.slice(1), "single"),
    /more than one MIG device type present on node: 1g.5gb, 1g.5gb\+me/,
  );
  // An event of the GPU is about all of its parts, one with instances about that part.
  assert.deepEqual(concerned(all, { uuid: "b", instances: undefined }), ["b", "m1", "m2", "m3"]);
  assert.deepEqual(concerned(parts, { uuid: "b", instances: { gpu: 2, compute: 0 } }), ["m2"]);
});

test("settings: the command line over the environment over the file; what is wrong has its place", (t) => {
  const dir = mkdtempSync(join(tmpdir(), "berth-settings-"));
  t.after(() => rmSync(dir, { recursive: true, force: true }));
  const file = join(dir, "config.yaml");
  writeFileSync(
    file,
    "version: v1\nflags:\n  migStrategy: single\n  plugin:\n    deviceListStrategy: cdi-cri\n    deviceIDStrategy: index\n",
  );
  process.env["DEVICE_ID_STRATEGY"] = "uuid";
  t.after(() => delete process.env["DEVICE_ID_STRATEGY"]);
  const chosen = choose(parseCommand(["--config-file", file, "--mig-strategy", "mixed", "--fail-on-init-error=false"]));
  assert.ok(chosen.kind === "nvidia");
  assert.deepEqual(chosen.settings.flags, {
    ...DEFAULT_FLAGS,
    migStrategy: "mixed",
    failOnInitError: false,
    deviceListStrategy: ["cdi-cri"],
    deviceIDStrategy: "uuid",
  });
  const bad: readonly (readonly [string, RegExp])[] = [
    ["version: v2", /f.yaml:1:10: version: "v2" is none of v1/],
    ["version: v1\nflags: {migStrategy: x}", /"x" is none of none, single, mixed/],
    ["version: v1\nsharing: {timeSlicing: {resources: []}}", /no resources specified/],
    ["version: v1\nsharing: {timeSlicing: {resources: [{name: a, replicas: 1}]}}", /1 is not between 2 and/],
    ["version: v1\nflag: {}", /unknown field.*flags/],
  ];
  for (const [text, message] of bad) assert.throws(() => parseSettings(text, "f.yaml"), message);
  writeFileSync(file, "version: v1\nresources:\n- name: mock.com/gpu\n");
  assert.equal(choose(parseCommand(["--config-file", file])).kind, "cdi");
});

describe("NVIDIA's device plugin", { skip: process.getuid?.() === 0 ? false : "needs root, for device nodes" }, () => {
  let dir = "";
  let kubelet: FakeKubelet;
  const say = (script: string): void => writeFileSync(join(dir, "nvml.txt"), script);
  before(async () => {
    dir = mkdtempSync(join(tmpdir(), "berth-nvidia-plugin-"));
    makeDriverRoot(join(dir, "root"));
    for (const index of [2, 3]) makeNode(join(dir, "root"), `nvidia${index}`, "666", 195, 10 + index);
    mkdirSync(join(dir, "plugins"));
    process.env["FAKE_NVML"] = join(dir, "nvml.txt");
    kubelet = new FakeKubelet(join(dir, "plugins"));
    await kubelet.start();
  });
  after(async () => {
    await kubelet.stop();
    delete process.env["FAKE_NVML"];
    rmSync(dir, { recursive: true, force: true });
  });

  const start = async (
    t: TestContext,
    flags: Partial<Flags> = {},
    more: string = "",
    options: Partial<NvidiaPluginOptions> = {},
  ): Promise<NvidiaPlugin> => {
    const { sharing, imex } = parseSettings(`version: v1\n${more}`);
    const own = { nvidiaDriverRoot: join(dir, "root"), containerDriverRoot: "/none" };
    const plugin = await NvidiaPlugin.start({
      settings: { flags: { ...DEFAULT_FLAGS, ...own, ...flags }, sharing, imex },
      rules: xidRules(undefined, undefined, () => {}),
      kubeletSocket: kubelet.socket,
      cdiDir: join(dir, "cdi"),
      log: silent,
      // A machine under load may not answer in time at first.
      retryMs: 500,
      ...options,
    });
    t.after(async () => {
      await plugin.close();
      kubelet.resources.clear();
    });
    return plugin;
  };
  const resource = (name = "nvidia.com/gpu") => {
    const found = kubelet.resources.get(name);
    assert.ok(found, `${name} is registered`);
    return found;
  };
  const allocated = async (ids: string[], name?: string) => {
    const { containerResponses } = await resource(name).call(method.allocate, {
      containerRequests: [{ devicesIds: ids }],
    });
    assert.ok(containerResponses[0]);
    return containerResponses[0];
  };

  test("GPUs by their UUIDs, and the four ways to tell a runtime of them", async (t) => {
    say(FOUR);
    await start(t, { deviceListStrategy: ["envvar"], passDeviceSpecs: true, gdsEnabled: true });
    const { request } = resource();
    assert.equal(request.endpoint, "nvidia-gpu.sock");
    await kubelet.until(() => resource().lists.length > 0);
    assert.deepEqual(resource().lists[0], Object.fromEntries([0, 1, 2, 3].map((index) => [uuid(index), "Healthy"])));
    const answer = await allocated([uuid(2), uuid(0)]);
    assert.deepEqual(answer.envs, { NVIDIA_VISIBLE_DEVICES: `${uuid(2)},${uuid(0)}`, NVIDIA_GDS: "enabled" });
    const paths = answer.devices.map(({ containerPath }) => containerPath);
    assert.deepEqual(paths.slice(0, 1).concat(paths.slice(-2)), ["/dev/nvidiactl", "/dev/nvidia2", "/dev/nvidia0"]);
    assert.equal(answer.devices[0]?.hostPath, join(dir, "root/dev/nvidiactl"));
    assert.equal(answer.devices[0]?.permissions, "rw");
    await assert.rejects(allocated(["GPU-9"]), /INVALID_ARGUMENT.*unknown device: GPU-9/);
  });

  test("volume mounts, and CDI by annotation and field with a specification of its own", async (t) => {
    say(FOUR);
    await start(t, { deviceListStrategy: ["volume-mounts", "cdi-annotations", "cdi-cri"], deviceIDStrategy: "index" });
    const answer = await allocated([uuid(1)]);
    assert.deepEqual(answer.envs, { NVIDIA_VISIBLE_DEVICES: "/var/run/nvidia-container-devices" });
    const [mount] = answer.mounts;
    assert.deepEqual([mount?.hostPath, mount?.containerPath], ["/dev/null", "/var/run/nvidia-container-devices/1"]);
    const name = "k8s.device-plugin.nvidia.com/gpu=1";
    assert.deepEqual(
      answer.cdiDevices.map((device) => device.name),
      [name],
    );
    assert.deepEqual(Object.values(answer.annotations), [name]);
    assert.match(Object.keys(answer.annotations)[0] ?? "", /^cdi\.k8s\.io\/nvidia-device-plugin_[0-9a-f-]{36}$/);
    assert.deepEqual(readdirSync(join(dir, "cdi")), ["k8s.device-plugin.nvidia.com-gpu.json"]);
    const file = join(dir, "cdi/k8s.device-plugin.nvidia.com-gpu.json");
    const spec = parseCdiSpec(readFileSync(file, "utf8"), file);
    assert.deepEqual(
      spec.devices.map((device) => device.name),
      ["0", "1", "2", "3"],
    );
  });

  test("the pair with the most links is preferred", async (t) => {
    say(FOUR);
    await start(t);
    const { containerResponses } = await resource().call(method.getPreferredAllocation, {
      containerRequests: [
        { availableDeviceIDs: [0, 2, 3].map(uuid), allocationSize: 2 },
        { availableDeviceIDs: [0, 1, 2, 3].map(uuid), mustIncludeDeviceIDs: [uuid(1)], allocationSize: 2 },
      ],
    });
    assert.deepEqual(
      containerResponses.map(({ deviceIDs }) => deviceIDs),
      [
        [uuid(2), uuid(3)],
        [uuid(1), uuid(0)],
      ],
    );
  });

  test("time-slicing: shares, another name, one for a container, and every share as unhealthy as its GPU, until it is well again", async (t) => {
    say(FOUR);
    const sharing = `sharing:
  timeSlicing:
    renameByDefault: true
    failRequestsGreaterThanOne: true
    resources: [{name: nvidia.com/gpu, replicas: 2}]
`;
    await start(t, {}, sharing, { quietMs: 300 });
    const shared = resource("nvidia.com/gpu.shared");
    await kubelet.until(() => shared.lists.length > 0);
    assert.deepEqual(Object.keys(shared.lists[0] ?? {}).slice(0, 3), [
      `${uuid(0)}::0`,
      `${uuid(0)}::1`,
      `${uuid(1)}::0`,
    ]);
    assert.deepEqual((await allocated([`${uuid(1)}::1`], "nvidia.com/gpu.shared")).envs, {
      NVIDIA_VISIBLE_DEVICES: uuid(1),
    });
    await assert.rejects(
      allocated([`${uuid(1)}::1`, `${uuid(1)}::0`], "nvidia.com/gpu.shared"),
      /maximum request size for shared resources is 1; found 2/,
    );
    const healthOf = (index: number) => {
      const list = shared.lists.at(-1) ?? {};
      return [list[`${uuid(index)}::0`], list[`${uuid(index)}::1`]];
    };
    // An application's own error first: nothing comes of it.
    appendFileSync(join(dir, "nvml.txt"), `xid ${uuid(3)} 31\nxid ${uuid(1)} 79\n`);
    await kubelet.until(() => healthOf(1)[0] === "Unhealthy");
    assert.deepEqual(
      [healthOf(1), healthOf(3), healthOf(0)],
      [
        ["Unhealthy", "Unhealthy"],
        ["Healthy", "Healthy"],
        ["Healthy", "Healthy"],
      ],
    );
    await assert.rejects(allocated([`${uuid(1)}::0`], "nvidia.com/gpu.shared"), /XID 79 of GPU/);
    await kubelet.until(() => healthOf(1)[0] === "Healthy");
    assert.deepEqual(healthOf(1), ["Healthy", "Healthy"]);
  });

  test("a GPU that falls off the bus is unhealthy until it is back; so are all while NVML says nothing", async (t) => {
    say(FOUR);
    // Nobody else has NVML open: each look reads what it says anew.
    const plugin = await start(t, {}, "", { rules: xidRules("all", undefined, () => {}) });
    await kubelet.until(() => resource().lists.length > 0);
    const health = () => [0, 1, 2, 3].map((index) => resource().lists.at(-1)?.[uuid(index)]?.[0]).join("");
    assert.equal(health(), "HHHH");
    appendFileSync(join(dir, "nvml.txt"), `lost ${uuid(2)}\n`);
    await plugin.examine();
    await kubelet.until(() => health() === "HHUH");
    await assert.rejects(allocated([uuid(2)]), /GPU-2.*nvmlDeviceGetHandleByIndex_v2.*\(15\)/);
    say(`fail nvmlDeviceGetCount_v2 999\n${FOUR}`);
    await plugin.examine();
    await kubelet.until(() => health() === "UUUU");
    say(FOUR);
    await plugin.examine();
    await kubelet.until(() => health() === "HHHH");
  });

  test("a kubelet that starts anew is registered with, without waiting for the next look", async (t) => {
    say(FOUR);
    await start(t);
    await kubelet.until(() => (kubelet.resources.get("nvidia.com/gpu")?.lists.length ?? 0) > 0);
    await kubelet.stop();
    for (const name of readdirSync(join(dir, "plugins"))) rmSync(join(dir, "plugins", name), { force: true });
    await kubelet.start();
    await kubelet.until(() => (kubelet.resources.get("nvidia.com/gpu")?.lists.length ?? 0) > 0);
    kubelet.resources.clear();
    // Or it is being made anew at the moment.
    rmSync(join(dir, "plugins/nvidia-gpu.sock"), { force: true });
    await kubelet.until(() => (kubelet.resources.get("nvidia.com/gpu")?.lists.length ?? 0) > 0);
  });

  test("what happens in the kubelet's directory during a registration does not make another", async (t) => {
    say(FOUR);
    kubelet.registrations = 0;
    kubelet.beforeAnswer = async () => {
      writeFileSync(join(dir, "plugins/other.sock"), "");
      await setTimeout(100);
    };
    t.after(() => (kubelet.beforeAnswer = () => Promise.resolve()));
    const plugin = await start(t);
    rmSync(join(dir, "plugins/other.sock"));
    await plugin.examine();
    assert.equal(kubelet.registrations, 1);
  });

  test("what this machine does not have beside GPUs is no device of a container", async (t) => {
    say(FOUR);
    const flags = {
      gdsEnabled: true,
      gdrcopyEnabled: true,
      cdiDisableHooks: ["all"],
      cdiFeatureFlags: ["enable-coherent-annotations"],
    };
    await start(t, { ...flags, deviceListStrategy: ["cdi-cri"], nvidiaDriverRoot: join(dir, "root") });
    const { cdiDevices, envs } = await allocated([uuid(0)]);
    assert.deepEqual(
      cdiDevices.map(({ name }) => name),
      [`k8s.device-plugin.nvidia.com/gpu=${uuid(0)}`],
    );
    assert.deepEqual(envs, { NVIDIA_GDS: "enabled", NVIDIA_GDRCOPY: "enabled" });
    const spec = readFileSync(join(dir, "cdi/k8s.device-plugin.nvidia.com-gpu.json"), "utf8");
    assert.doesNotMatch(spec, /"hooks"/);
    assert.match(spec, /"gpu\.nvidia\.com\/coherent": ?"false"/);
  });

  test("a GPU with MIG devices is whole without a strategy, and refused where it has none", async (t) => {
    say(`driver 525.147.05\n${gpuLine(0)}${gpuLine(1, 1)}`);
    await start(t, { migStrategy: "none" });
    await kubelet.until(() => resource().lists.length > 0);
    assert.equal(Object.keys(resource().lists[0] ?? {}).length, 2);
    await assert.rejects(start(t, { migStrategy: "single" }), /GPU GPU-1.* has MIG enabled and no MIG device/);
  });

  test("the command: GPUs, XID events in a thread of its own, SIGHUP, and an end without leftovers", async (t) => {
    say(FOUR);
    const command = new URL("../../../bin/berth-device-plugin", import.meta.url).pathname;
    const flags = { "kubelet-socket": kubelet.socket, "driver-root-ctr-path": join(dir, "root"), "log-level": "warn" };
    const argv = Object.entries(flags).map(([name, value]) => `--${name}=${value}`);
    const child = spawn(command, argv, { stdio: ["ignore", "pipe", "inherit"] });
    t.after(() => child.kill("SIGKILL"));
    let output = "";
    child.stdout.on("data", (chunk: Buffer) => (output += chunk.toString()));
    const ended = new Promise((resolve) => child.once("exit", resolve));
    await kubelet.until(() => (kubelet.resources.get("nvidia.com/gpu")?.lists.length ?? 0) > 0);
    appendFileSync(join(dir, "nvml.txt"), `xid ${uuid(1)} 79\n`);
    await kubelet.until(() => resource().lists.at(-1)?.[uuid(1)] === "Unhealthy");
    kubelet.resources.clear();
    say(FOUR);
    child.kill("SIGHUP");
    await kubelet.until(() => (kubelet.resources.get("nvidia.com/gpu")?.lists.length ?? 0) > 0);
    assert.deepEqual([...new Set(Object.values(resource().lists.at(-1) ?? {}))], ["Healthy"]);
    child.kill("SIGTERM");
    assert.equal(await ended, 0, output);
    assert.match(output, /device is unhealthy: XID 79 of GPU/);
    assert.deepEqual(readdirSync(join(dir, "plugins")), ["kubelet.sock"]);
    kubelet.resources.clear();
  });

  test("MIG devices: resources by their profiles, their nodes, and one name for all of a kind", async (t) => {
    const [gpu, other] = [gpuLine(0, 1), gpuLine(1)];
    const parts = ["a 1 0 0 0 4864", "b 2 0 7 0 4864", "c 3 0 0 0 4864"].map((part) => `mig MIG-${part}\n`);
    const command = new URL("../../../bin/berth-device-plugin", import.meta.url).pathname;
    // Numbers of the capabilities' nodes are in the driver's own file of procfs.
    const minors = [1, 2, 3]
      .flatMap((gi) => [`gpu0/gi${gi}/access ${gi}0`, `gpu0/gi${gi}/ci0/access ${gi}1`])
      .join("\n");
    writeFileSync(join(dir, "mig-minors"), `${minors}\n`);
    const caps = "/proc/driver/nvidia-caps";
    const prepared = `mount -t tmpfs none /proc/driver && mkdir ${caps} && cp ${join(dir, "mig-minors")} ${caps}`;
    const run = (...flags: string[]) => {
      const given = [`--kubelet-socket=${kubelet.socket}`, `--driver-root-ctr-path=${join(dir, "root")}`, ...flags];
      const script = `${prepared} && exec ${command} --log-level=error --pass-device-specs ${given.join(" ")}`;
      const child = spawn("unshare", ["-m", "sh", "-c", script], { stdio: ["ignore", "ignore", "inherit"] });
      const ended = new Promise<void>((resolve) => child.once("exit", () => resolve()));
      const stop = async (): Promise<void> => {
        child.kill("SIGTERM");
        await ended;
        kubelet.resources.clear();
      };
      t.after(stop);
      return stop;
    };
    const lists = () =>
      Object.fromEntries(
        [...kubelet.resources].map(([name, { lists: all }]) => [name, Object.keys(all.at(-1) ?? {}).join(" ")]),
      );
    say(`driver 525.147.05\n${gpu}${parts.join("")}${other}`);
    const stop = run("--mig-strategy=mixed");
    const wanted = {
      "nvidia.com/gpu": uuid(1),
      "nvidia.com/mig-1g.5gb": "MIG-a MIG-c",
      "nvidia.com/mig-1g.5gb.me": "MIG-b",
    };
    await kubelet.until(() => JSON.stringify(lists()) === JSON.stringify(wanted));
    const { devices, envs } = await allocated(["MIG-b"], "nvidia.com/mig-1g.5gb.me");
    assert.deepEqual(envs, { NVIDIA_VISIBLE_DEVICES: "MIG-b" });
    assert.deepEqual(devices.map(({ containerPath }) => containerPath).slice(-3), [
      "/dev/nvidia0",
      "/dev/nvidia-caps/nvidia-cap20",
      "/dev/nvidia-caps/nvidia-cap21",
    ]);
    await stop();
    say(`driver 525.147.05\n${gpu}${parts[0]}${parts[2]}`);
    run("--mig-strategy=single", "--device-id-strategy=index");
    await kubelet.until(() => JSON.stringify(lists()) === JSON.stringify({ "nvidia.com/gpu": "MIG-a MIG-c" }));
    assert.deepEqual((await allocated(["MIG-c"])).envs, { NVIDIA_VISIBLE_DEVICES: "0:1" });
  });

  test("a node without NVML ends the plugin, or is waited for", async (t) => {
    say(`fail nvmlInit_v2 9\n${FOUR}`);
    await assert.rejects(start(t), /nvmlInit_v2: Unknown Error \(9\)/);
    const plugin = await start(t, { failOnInitError: false });
    assert.equal(kubelet.resources.size, 0);
    say(FOUR);
    await plugin.examine();
    assert.equal(resource().request.resourceName, "nvidia.com/gpu");
  });
});
