/** What the device plugin is told: flags, variables, the file; and what follows of it without a kubelet. */
import assert from "node:assert/strict";
import { mkdirSync, mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { type TestContext, test } from "node:test";
import { takeShares } from "../src/plugin/allocate.ts";
import { choose, parseCommand } from "../src/plugin/command.ts";
import { discover } from "../src/plugin/nvidia/discover.ts";
import { parseSettings } from "../src/plugin/nvidia/file.ts";
import { listed, resourcesOf } from "../src/plugin/nvidia/offers.ts";
import { preferredGpus } from "../src/plugin/nvidia/prefer.ts";
import { DEFAULT_FLAGS, type Flags, type NvidiaSettings } from "../src/plugin/nvidia/settings.ts";
import { PluginMetrics } from "../src/plugin/metrics.ts";
import { serveMetrics } from "../src/plugin/metrics-server.ts";
import { makeNvml } from "../src/testing/driver-root.ts";

/** Each flag, what it is given, and what comes of it; then its other names, and its variables. */
const FLAGS: readonly (readonly [flag: string, given: string, wanted: Partial<Flags>, ...names: string[]])[] = [
  ["--mig-strategy", "mixed", { migStrategy: "mixed" }, "MIG_STRATEGY"],
  ["--fail-on-init-error", "false", { failOnInitError: false }, "FAIL_ON_INIT_ERROR"],
  ["--driver-root", "/d", { nvidiaDriverRoot: "/d" }, "--nvidia-driver-root", "NVIDIA_DRIVER_ROOT"],
  ["--dev-root", "/d", { nvidiaDevRoot: "/d" }, "--nvidia-dev-root", "NVIDIA_DEV_ROOT"],
  ["--pass-device-specs", "true", { passDeviceSpecs: true }, "PASS_DEVICE_SPECS"],
  ["--device-list-strategy", "cdi-cri,envvar", { deviceListStrategy: ["cdi-cri", "envvar"] }, "DEVICE_LIST_STRATEGY"],
  ["--device-id-strategy", "index", { deviceIDStrategy: "index" }, "DEVICE_ID_STRATEGY"],
  ["--gdrcopy-enabled", "1", { gdrcopyEnabled: true }, "GDRCOPY_ENABLED"],
  ["--gds-enabled", "T", { gdsEnabled: true }, "GDS_ENABLED"],
  ["--mofed-enabled", "TRUE", { mofedEnabled: true }, "MOFED_ENABLED"],
  ["--cdi-annotation-prefix", "x/", { cdiAnnotationPrefix: "x/" }, "CDI_ANNOTATION_PREFIX"],
  [
    "--nvidia-cdi-hook-path",
    "/h",
    { nvidiaCTKPath: "/h" },
    "--nvidia-ctk-path",
    "NVIDIA_CDI_HOOK_PATH",
    "NVIDIA_CTK_PATH",
  ],
  [
    "--driver-root-ctr-path",
    "/c",
    { containerDriverRoot: "/c" },
    "--container-driver-root",
    "DRIVER_ROOT_CTR_PATH",
    "CONTAINER_DRIVER_ROOT",
  ],
  ["--mps-root", "/m", { mpsRoot: "/m" }, "MPS_ROOT"],
  ["--mps-root-ctr-path", "/m", { mpsContainerRoot: "/m" }, "MPS_ROOT_CTR_PATH"],
  [
    "--shared-devices-allocation-policy",
    "packed",
    { sharedDevicesAllocationPolicy: "packed" },
    "SHARED_DEVICES_ALLOCATION_POLICY",
  ],
  ["--device-discovery-strategy", "tegra", { deviceDiscoveryStrategy: "tegra" }, "DEVICE_DISCOVERY_STRATEGY"],
  [
    "--cdi-feature-flags",
    "disable-ipc-discoverer",
    { cdiFeatureFlags: ["disable-ipc-discoverer"] },
    "CDI_FEATURE_FLAGS",
  ],
  ["--cdi-disable-hooks", "all", { cdiDisableHooks: ["all"] }, "CDI_DISABLE_HOOKS"],
];

function settingsOf(argv: readonly string[], env: Readonly<Record<string, string>> = {}): NvidiaSettings {
  for (const [name, value] of Object.entries(env)) process.env[name] = value;
  try {
    const chosen = choose(parseCommand(argv));
    assert.ok(chosen.kind === "nvidia");
    return chosen.settings;
  } finally {
    for (const name of Object.keys(env)) delete process.env[name];
  }
}

test("every flag, by each of its names, in Go's forms, and by each of its variables", () => {
  assert.deepEqual(settingsOf([]).flags, DEFAULT_FLAGS);
  for (const [flag, given, wanted, ...names] of FLAGS) {
    const expected = { ...DEFAULT_FLAGS, ...wanted };
    for (const name of [flag, ...names]) {
      if (!name.startsWith("--")) {
        assert.deepEqual(settingsOf([], { [name]: given }).flags, expected, name);
        continue;
      }
      assert.deepEqual(settingsOf([`${name}=${given}`]).flags, expected, name);
      assert.deepEqual(settingsOf([`${name.slice(1)}=${given}`]).flags, expected, name.slice(1));
    }
  }
  assert.equal(settingsOf(["--gds-enabled"]).flags.gdsEnabled, true);
  assert.equal(settingsOf([], { FAIL_ON_INIT_ERROR: "" }).flags.failOnInitError, false, "set to nothing is false");
  const twice = settingsOf(["--device-list-strategy", "envvar", "--device-list-strategy", "volume-mounts"]);
  assert.deepEqual(twice.flags.deviceListStrategy, ["envvar", "volume-mounts"]);
  const both = settingsOf([], { NVIDIA_CTK_PATH: "/second", NVIDIA_CDI_HOOK_PATH: "/first" });
  assert.equal(both.flags.nvidiaCTKPath, "/first");
});

test("IMEX channels, and where the metrics and the kubelet are", () => {
  assert.deepEqual(settingsOf(["--imex-channel-ids=0", "--imex-required"]).imex, { channelIDs: [0], required: true });
  assert.deepEqual(settingsOf([], { IMEX_CHANNEL_IDS: "0", IMEX_REQUIRED: "true" }).imex.channelIDs, [0]);
  assert.throws(() => settingsOf(["--imex-channel-ids=0,1"]), /channelIDs must be \[\] or \[0\]; found \[0 1\]/);
  assert.throws(() => settingsOf(["--imex-channel-ids=7"]), /found \[7\]/);
  const { kubeletSocket, httpEndpoint, metricsPath, logLevel } = parseCommand([
    "--kubelet-socket=",
    "--http-endpoint=:9400",
  ]);
  assert.deepEqual([kubeletSocket, httpEndpoint, metricsPath, logLevel], ["", ":9400", "/metrics", "info"]);
});

test("the file: shared resources by short and full names, what has no effect, and what is wrong with its place", () => {
  const shared = (more: string, kind = "timeSlicing"): string =>
    `version: v1\nsharing:\n  ${kind}:\n    resources:\n    - {name: gpu, replicas: 2${more}}\n`;
  assert.deepEqual(parseSettings(shared("")).sharing, {
    strategy: "time-slicing",
    renameByDefault: false,
    failRequestsGreaterThanOne: false,
    resources: [{ name: "nvidia.com/gpu", replicas: 2 }],
  });
  const { warnings } = parseSettings(
    `${shared(", rename: mine, devices: [0, 1:0, GPU-b1028956-cfa2-0990-bf4a-5da9abb51763]")}resources: {gpus: []}\n`,
  );
  assert.deepEqual(
    warnings.map((text) => /"(\w+)" field/.exec(text)?.[1]),
    ["resources", "rename", "devices"],
  );
  assert.deepEqual(parseSettings(shared(", devices: all")).warnings, []);
  const file = parseSettings(
    "flags:\n  useNodeFeatureAPI: false\n  deviceDiscoveryStrategy: nvml\n  mpsRoot: /m\n  gfd: {oneshot: true, sleepInterval: 30000000000, outputFile: x}\n",
  );
  assert.deepEqual(file.labels, { oneshot: true, sleepInterval: 30_000, outputFile: "x" });
  assert.deepEqual([file.useNodeFeatureAPI, file.discovery, file.flags.mpsRoot], [false, "nvml", "/m"]);
  const both = parseSettings(
    "sharing:\n  mps: {resources: [{name: gpu, replicas: 3}]}\n  timeSlicing: {resources: [{name: gpu, replicas: 2}]}\n",
  );
  assert.deepEqual([both.sharing?.strategy, both.sharing?.resources[0]?.replicas], ["mps", 3]);
  const bad: readonly (readonly [string, RegExp])[] = [
    ["version: v2", /f.yaml:1:10: version: "v2" is none of v1/],
    ["version: v1\nflags: {migStrategy: x}", /"x" is none of none, single, mixed/],
    ["flags: {deviceDiscoveryStrategy: x}", /none of auto, nvml, tegra, vfio/],
    ["flags: {gfd: {sleepInterval: soon}}", /sleepInterval: invalid duration "soon"/],
    ["sharing: {timeSlicing: {resources: []}}", /no resources specified/],
    ["sharing: {mps: {}}", /no resources specified/],
    ["sharing: {timeSlicing: {resources: [{name: a, replicas: 1}]}}", /1 is not between 2 and/],
    ["sharing: {timeSlicing: {resources: [{replicas: 2}]}}", /no resource name specified/],
    ["sharing: {timeSlicing: {resources: [{name: a}]}}", /no replicas specified/],
    [`sharing: {timeSlicing: {resources: [{name: ${"a".repeat(60)}, replicas: 2}]}}`, /must be 63 characters or less/],
    ["sharing: {timeSlicing: {resources: [{name: A_b, replicas: 2}]}}", /incorrect format for resource name/],
    [
      "sharing: {timeSlicing: {resources: [{name: a, replicas: 2, devices: some}]}}",
      /only valid string input is 'all'/,
    ],
    ["sharing: {timeSlicing: {resources: [{name: a, replicas: 2, devices: [x]}]}}", /unsupported type for device/],
    ["flag: {}", /unknown field.*flags/],
  ];
  for (const [text, message] of bad) assert.throws(() => parseSettings(text, "f.yaml"), message, text);
});

test("shares: the device with the fewest given away, or the most; NVIDIA's policies", () => {
  const all = ["a::0", "a::1", "a::2", "b::0", "b::1", "b::2"];
  const take = (policy: "distributed" | "packed", available: string[], size: number, must: string[] = []) =>
    takeShares(policy, all, { available, must, size }).join(" ");
  assert.equal(take("distributed", all, 3), "a::0 b::0 a::1");
  assert.equal(take("packed", all, 3), "a::0 a::1 a::2");
  assert.equal(take("distributed", all.slice(1), 1), "b::0");
  assert.equal(take("packed", all.slice(0, -1), 2), "b::0 b::1");
  assert.equal(take("distributed", all, 2, ["a::1"]), "a::1 b::0");
  assert.throws(() => take("packed", ["a::0"], 2), /not enough available devices/);
  // Without replicas (MIG devices), in their order.
  assert.deepEqual(takeShares("distributed", ["x", "y", "z"], { available: ["z", "y"], must: [], size: 1 }), ["y"]);
});

test("whole GPUs are divided so that all sets together reach each other best", () => {
  // A chain, whose middle pair is the best by itself, and leaves the ends apart.
  const pairs: Record<string, number> = { ab: 100, bc: 150, cd: 100 };
  const score = (one: string, other: string): number => pairs[[one, other].sort().join("")] ?? 0;
  const pick = (available: string, size: number, must = "") =>
    preferredGpus({ available: [...available], must: [...must], size }, score).join("");
  assert.equal(pick("abcd", 2), "ab");
  assert.equal(pick("abcd", 2, "c"), "cd");
  assert.equal(pick("bcd", 2), "bc", "one remains");
  assert.equal(pick("abc", 3), "abc");
  // Two that are linked remain together: they are no set of three.
  const five: Record<string, number> = { de: 1000, ab: 10, ac: 10, bc: 10 };
  const of = (one: string, other: string): number => five[[one, other].sort().join("")] ?? 0;
  assert.deepEqual(preferredGpus({ available: [..."abcde"], must: [], size: 3 }, of), ["a", "b", "c"]);
  const sixteen = Array.from({ length: 16 }, (_, index) => `g${index}`);
  const neighbours = (one: string, other: string): number =>
    Number(one.slice(1)) >> 1 === Number(other.slice(1)) >> 1 ? 100 : 0;
  assert.deepEqual(preferredGpus({ available: sixteen, must: ["g5"], size: 2 }, neighbours), ["g5", "g4"]);
});

test("platforms: a Tegra system's one device, Windows' one node, and CDI on neither", (t) => {
  const root = temporary(t);
  mkdirSync(join(root, "etc"), { recursive: true });
  writeFileSync(join(root, "etc/nv_tegra_release"), "");
  const flags = { ...DEFAULT_FLAGS, nvidiaDriverRoot: root, containerDriverRoot: join(root, "none") };
  const settings = (more: Partial<Flags> = {}): NvidiaSettings => ({
    flags: { ...flags, ...more },
    sharing: undefined,
    imex: { channelIDs: [], required: false },
  });
  const found = discover(settings(), "/none/libnvidia-ml.so.1");
  assert.deepEqual(
    [found.platform, found.gpus.map(({ uuid, index, paths }) => [uuid, index, paths])],
    ["tegra", [["tegra", "0", []]]],
  );
  assert.throws(
    () => discover(settings({ deviceListStrategy: ["cdi-cri"] }), "/none"),
    /CDI --device-list-strategy options are only supported on NVML-based systems/,
  );
  assert.throws(() => discover(settings({ deviceDiscoveryStrategy: "nvml" }), "/none/nvml.so"), /\/none\/nvml\.so/);
  const [tegra] = resourcesOf(found, settings({ passDeviceSpecs: true }));
  assert.ok(tegra);
  const answer = tegra.offer.allocate(listed(tegra, new Map()), ["tegra"]);
  assert.deepEqual([answer.envs, answer.devices], [{ NVIDIA_VISIBLE_DEVICES: "tegra" }, []]);

  const windows = temporary(t);
  const library = join(windows, "usr/lib/wsl/lib/libdxcore.so");
  mkdirSync(join(library, ".."), { recursive: true });
  writeFileSync(library, "");
  makeNvml(windows);
  writeFileSync(join(windows, "nvml.txt"), "driver 1.2\ngpu A 0 0:1:0.0 2 X\ngpu B 1 0:2:0.0 2 X\n");
  process.env["FAKE_NVML"] = join(windows, "nvml.txt");
  t.after(() => delete process.env["FAKE_NVML"]);
  const nvml = join(windows, "usr/lib/x86_64-linux-gnu/libnvidia-ml.so.1");
  const wsl = discover(settings({ nvidiaDriverRoot: windows }), nvml);
  assert.deepEqual([wsl.platform, wsl.gpus.map(({ uuid, paths }) => [uuid, paths])], ["wsl", [["all", ["/dev/dxg"]]]]);
});

test("metrics over HTTP: their path, health, and what is not there", async () => {
  const metrics = new PluginMetrics();
  metrics.called('a"b', "Allocate", "OK", 0.002);
  metrics.called('a"b', "Allocate", "InvalidArgument", 2);
  metrics.called('a"b', "ListAndWatch", "OK", undefined);
  metrics.registered("x", "failure");
  metrics.xid("GPU-1", 79, true);
  metrics.offered = () => [{ name: "x", isRegistered: false, healthy: 3, unhealthy: 1 }];
  await using server = await serveMetrics(metrics, "127.0.0.1:0", "/m");
  const get = async (path: string, method = "GET") => {
    const response = await fetch(`http://127.0.0.1:${server.port}${path}`, { method });
    return { status: response.status, text: await response.text(), type: response.headers.get("content-type") };
  };
  const { text, type } = await get("/m?x");
  assert.equal(type, "text/plain; version=0.0.4; charset=utf-8");
  for (const line of [
    "# TYPE berth_device_plugin_requests_total counter",
    'berth_device_plugin_requests_total{resource="a\\"b",method="Allocate",code="InvalidArgument"} 1',
    'berth_device_plugin_request_duration_seconds_bucket{resource="a\\"b",method="Allocate",le="0.001"} 0',
    'berth_device_plugin_request_duration_seconds_bucket{resource="a\\"b",method="Allocate",le="0.0025"} 1',
    'berth_device_plugin_request_duration_seconds_bucket{resource="a\\"b",method="Allocate",le="+Inf"} 2',
    'berth_device_plugin_request_duration_seconds_count{resource="a\\"b",method="Allocate"} 2',
    'berth_device_plugin_devices{resource="x",health="unhealthy"} 1',
    'berth_device_plugin_registered{resource="x"} 0',
    'berth_device_plugin_registrations_total{resource="x",result="failure"} 1',
    'berth_device_plugin_xid_events_total{gpu="GPU-1",xid="79",counted="true"} 1',
  ])
    assert.ok(text.split("\n").includes(line), `${line}\n${text}`);
  assert.match(text, /^process_resident_memory_bytes [1-9]/m);
  assert.doesNotMatch(text, /request_duration_seconds.*ListAndWatch/);
  assert.equal((await get("/healthz")).text, "ok\n");
  assert.equal((await get("/metrics")).status, 404);
  assert.equal((await get("/m", "POST")).status, 405);
  await assert.rejects(serveMetrics(metrics, "here", "/m"), /--http-endpoint "here" is not of the form IP:PORT/);
});

function temporary(t: TestContext): string {
  const dir = mkdtempSync(join(tmpdir(), "berth-flags-"));
  t.after(() => rmSync(dir, { recursive: true, force: true }));
  return dir;
}
