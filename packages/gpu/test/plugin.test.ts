/** The device plugin before a fake kubelet: registration, lists, health, restarts, allocation. */
import assert from "node:assert/strict";
import { type ChildProcess, spawn } from "node:child_process";
import { mkdir, mkdtemp, readdir, readFile, rename, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { type TestContext, test } from "node:test";
import * as api from "@berth/spec/device-plugin";
import { status } from "@grpc/grpc-js";
import { parseConfig } from "../src/plugin/config.ts";
import { PluginMetrics } from "../src/plugin/metrics.ts";
import { DevicePlugin } from "../src/plugin/plugin.ts";
import { FakeKubelet } from "../src/testing/kubelet.ts";

const silent = { info() {}, warn() {}, error() {} };
const EIGHT = Array.from({ length: 8 }, (_, index) => `device_${index}`);

interface Node {
  readonly dir: string;
  readonly cdi: string;
  readonly kubelet: FakeKubelet;
  readonly start: (config: string) => Promise<DevicePlugin>;
  /** What goes at the end, the last first. */
  readonly stack: AsyncDisposableStack;
}

/** A node with eight devices, which are files that mounts need. */
async function node(t: TestContext): Promise<Node> {
  const dir = await mkdtemp(join(tmpdir(), "berth-plugin-"));
  const [cdi, plugins] = [join(dir, "cdi"), join(dir, "plugins")];
  for (const folder of [cdi, plugins, join(dir, "so")]) await mkdir(folder);
  for (const name of EIGHT) await writeFile(join(dir, "so", name), "");
  await writeFile(join(cdi, "mock.json"), specText(dir, EIGHT));
  const kubelet = new FakeKubelet(plugins);
  await kubelet.start();
  // A plugin whose kubelet goes first makes its socket anew.
  const stack = new AsyncDisposableStack();
  t.after(() => stack.disposeAsync());
  stack.defer(() => rm(dir, { recursive: true, force: true }));
  stack.defer(() => kubelet.stop());
  const start = async (config: string): Promise<DevicePlugin> => {
    const plugin = await DevicePlugin.start({
      config: parseConfig(config),
      cdiSpecDirs: [cdi],
      kubeletSocket: kubelet.socket,
      log: silent,
      // A machine under load may not answer in time at first.
      retryMs: 500,
    });
    stack.defer(() => plugin.close());
    return plugin;
  };
  return { dir, cdi, kubelet, start, stack };
}

function specText(dir: string, names: readonly string[]): string {
  const mount = (name: string) => ({
    hostPath: join(dir, "so", name),
    containerPath: `/so/${name}`,
    options: ["bind"],
  });
  const devices = names.map((name) => ({ name, containerEdits: { mounts: [mount(name)] } }));
  return JSON.stringify({ cdiVersion: "0.5.0", kind: "mock.com/gpu", devices });
}

const resourceOf = (kubelet: FakeKubelet, name = "mock.com/gpu") => {
  const resource = kubelet.resources.get(name);
  assert.ok(resource, `${name} is registered`);
  return resource;
};
const GENERIC = "version: v1\nresources:\n- name: mock.com/gpu\n";

test("the document's eight devices are a resource with a configuration of one line", async (t) => {
  const { kubelet, start } = await node(t);
  await start(GENERIC);
  const resource = resourceOf(kubelet);
  assert.equal(resource.request.version, "v1beta1");
  assert.equal(resource.request.endpoint, "berth-mock.com_gpu.sock");
  assert.equal(resource.request.options?.getPreferredAllocationAvailable, true);
  await kubelet.until(() => resource.lists.length > 0);
  assert.deepEqual(resource.lists[0], Object.fromEntries(EIGHT.map((name) => [name, "Healthy"])));
  const { method } = api.DevicePlugin;
  assert.equal((await resource.call(method.getDevicePluginOptions, {})).preStartRequired, false);
  const { containerResponses } = await resource.call(method.allocate, {
    containerRequests: [{ devicesIds: ["device_6", "device_0"] }, { devicesIds: ["device_1"] }],
  });
  assert.deepEqual(
    containerResponses.map(({ cdiDevices }) => cdiDevices.map(({ name }) => name)),
    [["mock.com/gpu=device_6", "mock.com/gpu=device_0"], ["mock.com/gpu=device_1"]],
  );
  assert.deepEqual(containerResponses[0]?.annotations, {});
  await resource.call(method.preStartContainer, { devicesIds: ["device_6"] });
  await assert.rejects(resource.call(method.allocate, { containerRequests: [{ devicesIds: ["device_8"] }] }), {
    code: status.INVALID_ARGUMENT,
    details: 'mock.com/gpu: there is no device "device_8"',
  });
});

test("preferred allocation: what must be, then devices in their order", async (t) => {
  const { kubelet, start } = await node(t);
  await start(GENERIC);
  const ask = async (available: string[], must: string[], size: number) =>
    (
      await resourceOf(kubelet).call(api.DevicePlugin.method.getPreferredAllocation, {
        containerRequests: [{ availableDeviceIDs: available, mustIncludeDeviceIDs: must, allocationSize: size }],
      })
    ).containerResponses[0]?.deviceIDs;
  assert.deepEqual(await ask(["device_7", "device_2", "device_5"], [], 2), ["device_2", "device_5"]);
  assert.deepEqual(await ask(["device_7", "device_2", "device_5"], ["device_7"], 2), ["device_7", "device_2"]);
  await assert.rejects(ask(["device_7"], [], 2), { code: status.INVALID_ARGUMENT });
  await assert.rejects(ask(["device_9"], [], 1), { code: status.INVALID_ARGUMENT });
});

test("shared devices: shares, policies, one share a container, and every share as healthy as its device", async (t) => {
  const { dir, kubelet, start } = await node(t);
  const shared = (name: string, more: string) =>
    `- name: ${name}\n  kind: mock.com/gpu\n  devices: ["device_[01]", device_0, "*_1"]\n  replicas: 3\n${more}`;
  await start(
    `version: v1\nresources:\n${shared("mock.com/spread", "")}${shared("mock.com/packed", "  allocationPolicy: packed\n  failRequestsGreaterThanOne: true\n  deviceListStrategy: [cdi-annotations, cdi-cri]\n")}`,
  );
  const [spread, packed] = [resourceOf(kubelet, "mock.com/spread"), resourceOf(kubelet, "mock.com/packed")];
  await kubelet.until(() => spread.lists.length > 0 && packed.lists.length > 0);
  const all = ["device_0::0", "device_0::1", "device_0::2", "device_1::0", "device_1::1", "device_1::2"];
  assert.deepEqual(Object.keys(spread.lists[0] ?? {}), all);
  const { getPreferredAllocation, allocate } = api.DevicePlugin.method;
  const ask = async (resource: typeof spread, available: string[], size: number) =>
    (
      await resource.call(getPreferredAllocation, {
        containerRequests: [{ availableDeviceIDs: available, mustIncludeDeviceIDs: [], allocationSize: size }],
      })
    ).containerResponses[0]?.deviceIDs;
  assert.deepEqual(await ask(spread, all.slice(1), 1), ["device_1::0"], "distributed: the device that is used least");
  assert.deepEqual(await ask(packed, all.slice(1), 1), ["device_0::1"], "packed: the one that is used most");
  assert.deepEqual(await ask(spread, all, 2), ["device_0::0", "device_1::0"]);
  const { containerResponses } = await packed.call(allocate, { containerRequests: [{ devicesIds: ["device_1::2"] }] });
  assert.deepEqual(
    containerResponses[0]?.cdiDevices.map(({ name }) => name),
    ["mock.com/gpu=device_1"],
  );
  const [[key, value] = []] = Object.entries(containerResponses[0]?.annotations ?? {});
  assert.match(key ?? "", /^cdi\.k8s\.io\/berth-device-plugin_[0-9a-f-]{36}$/);
  assert.equal(value, "mock.com/gpu=device_1");
  await assert.rejects(
    packed.call(allocate, { containerRequests: [{ devicesIds: ["device_1::0", "device_0::0"] }] }),
    /may ask for one share of a device, not 2/,
  );
  const two = await spread.call(allocate, { containerRequests: [{ devicesIds: ["device_1::0", "device_1::1"] }] });
  assert.equal(two.containerResponses[0]?.cdiDevices.length, 1);
  await rm(join(dir, "so/device_0"));
  await kubelet.until(() => spread.lists.at(-1)?.["device_0::2"] === "Unhealthy");
  assert.deepEqual(Object.values(spread.lists.at(-1) ?? {}), [
    "Unhealthy",
    "Unhealthy",
    "Unhealthy",
    "Healthy",
    "Healthy",
    "Healthy",
  ]);
});

test("health: a device whose files go is unhealthy until they are back; specifications come, change and go", async (t) => {
  const { dir, cdi, kubelet, start } = await node(t);
  await start(GENERIC);
  const resource = resourceOf(kubelet);
  const health = (name: string) => resource.lists.at(-1)?.[name];
  await rename(join(dir, "so/device_3"), join(dir, "away"));
  await kubelet.until(() => health("device_3") === "Unhealthy");
  await assert.rejects(
    resource.call(api.DevicePlugin.method.allocate, { containerRequests: [{ devicesIds: ["device_3"] }] }),
    /device "device_3" cannot be given: mount source .*device_3: ENOENT/,
  );
  await rename(join(dir, "away"), join(dir, "so/device_3"));
  await kubelet.until(() => health("device_3") === "Healthy");
  await writeFile(join(cdi, "mock.json"), specText(dir, EIGHT.slice(0, 7)));
  await kubelet.until(() => health("device_7") === undefined && health("device_6") === "Healthy");
  await rm(cdi, { recursive: true });
  await kubelet.until(() => Object.keys(resource.lists.at(-1) ?? { x: "" }).length === 0);
  await mkdir(cdi);
  await writeFile(join(cdi, "mock.json"), specText(dir, ["device_0"]));
  await kubelet.until(() => health("device_0") === "Healthy");
});

test("metrics: what is offered, how it goes with the kubelet, and its calls", async (t) => {
  const { dir, cdi, kubelet, stack } = await node(t);
  const metrics = new PluginMetrics();
  await kubelet.stop();
  const plugin = await DevicePlugin.start({
    config: parseConfig(GENERIC),
    cdiSpecDirs: [cdi],
    kubeletSocket: kubelet.socket,
    log: silent,
    retryMs: 500,
    metrics,
  });
  stack.defer(() => plugin.close());
  const has = async (...lines: string[]): Promise<void> => {
    const text = (await metrics.exposition()).split("\n");
    for (const line of lines) assert.ok(text.includes(`berth_device_plugin_${line}`), `${line}\n${text.join("\n")}`);
  };
  await has('registered{resource="mock.com/gpu"} 0', 'devices{resource="mock.com/gpu",health="healthy"} 8');
  const failed = /registrations_total\{resource="mock.com\/gpu",result="failure"\} [1-9]/;
  assert.match(await metrics.exposition(), failed);
  await kubelet.start();
  await kubelet.until(() => (kubelet.resources.get("mock.com/gpu")?.lists.length ?? 0) > 0);
  await rm(join(dir, "so/device_3"));
  await kubelet.until(() => resourceOf(kubelet).lists.at(-1)?.["device_3"] === "Unhealthy");
  const { allocate } = api.DevicePlugin.method;
  await resourceOf(kubelet).call(allocate, { containerRequests: [{ devicesIds: ["device_0"] }] });
  await assert.rejects(resourceOf(kubelet).call(allocate, { containerRequests: [{ devicesIds: ["x"] }] }));
  await has(
    'registered{resource="mock.com/gpu"} 1',
    'devices{resource="mock.com/gpu",health="unhealthy"} 1',
    'requests_total{resource="mock.com/gpu",method="Allocate",code="OK"} 1',
    'requests_total{resource="mock.com/gpu",method="Allocate",code="InvalidArgument"} 1',
    'request_duration_seconds_count{resource="mock.com/gpu",method="Allocate"} 2',
  );
  assert.match(
    await metrics.exposition(),
    /requests_total\{resource="mock.com\/gpu",method="ListAndWatch",code="OK"\} \d/,
  );
});

test("a kubelet that is not there yet, that restarts, or that removes the sockets, is registered with", async (t) => {
  const { dir, kubelet, start } = await node(t);
  await kubelet.stop();
  await start(GENERIC);
  assert.equal(kubelet.resources.size, 0);
  await kubelet.start();
  await kubelet.until(() => (kubelet.resources.get("mock.com/gpu")?.lists.length ?? 0) > 0);
  // As a kubelet restarts: every socket of the directory is removed, and its own is made anew.
  await kubelet.stop();
  for (const name of await readdir(join(dir, "plugins"))) await rm(join(dir, "plugins", name), { force: true });
  await kubelet.start();
  await kubelet.until(() => (kubelet.resources.get("mock.com/gpu")?.lists.length ?? 0) > 0);
  kubelet.resources.clear();
  // Or it is being made anew at the moment.
  await rm(join(dir, "plugins/berth-mock.com_gpu.sock"), { force: true });
  await kubelet.until(() => (kubelet.resources.get("mock.com/gpu")?.lists.length ?? 0) > 0);
});

test("the command: registered quickly and small, SIGHUP reads the file again, SIGTERM leaves no socket", async (t) => {
  const { dir, cdi, kubelet } = await node(t);
  const file = join(dir, "config.yaml");
  await writeFile(file, GENERIC);
  const began = performance.now();
  const command = new URL("../../../bin/berth-device-plugin", import.meta.url).pathname;
  const child = spawn(command, ["--config-file", file, "--cdi-spec-dirs", cdi, "--kubelet-socket", kubelet.socket], {
    stdio: ["ignore", "pipe", "pipe"],
  });
  t.after(() => child.kill("SIGKILL"));
  let output = "";
  child.stdout.on("data", (chunk: Buffer) => (output += chunk.toString()));
  await kubelet.until(() => kubelet.resources.has("mock.com/gpu"));
  const took = performance.now() - began;
  await kubelet.until(() => resourceOf(kubelet).lists.length > 0);
  const rollup = await readFile(`/proc/${child.pid}/smaps_rollup`, "utf8");
  const pss = Number(/^Pss:\s+(\d+)/m.exec(rollup)?.[1]) / 1024;
  t.diagnostic(`registered after ${took.toFixed(0)} ms, ${pss.toFixed(0)} MB`);
  assert.ok(pss < 80, `${pss} MB`);
  await writeFile(file, GENERIC.replace("mock.com/gpu", "mock.com/gpu\n  replicas: 2"));
  child.kill("SIGHUP");
  await kubelet.until(() => Object.keys(kubelet.resources.get("mock.com/gpu")?.lists.at(-1) ?? {}).length === 16);
  await writeFile(file, "version: v2\n");
  child.kill("SIGHUP");
  await saysOf(
    child,
    () => output,
    /the configuration stays as it was: .*config\.yaml:1:10: version: ..v2.. is none of v1/,
  );
  const gone = new Promise((resolve) => child.once("exit", resolve));
  child.kill("SIGTERM");
  assert.equal(await gone, 0);
  assert.deepEqual(await readdir(join(dir, "plugins")), ["kubelet.sock"]);
});

test("a configuration that is wrong is refused with line and column", () => {
  const resource = (more: string) => `version: v1\nresources:\n- name: mock.com/gpu\n${more}`;
  const cases: readonly (readonly [string, RegExp])[] = [
    ["resources: []", /"version" is missing/],
    ["version: v1", /"resources" is missing/],
    ["version: v1\nresources: []\n", /"resources" is missing/],
    ["version: v1\nresources:\n- kind: a/b\n", /3:3: resources\[0\]: "name" is missing/],
    ["version: v1\nresources:\n- name: gpu\n", /3:9: resources\[0\]\.name: "gpu" is not a resource's name/],
    [resource("  replicas: 0\n"), /4:13: resources\[0\]\.replicas: 0 is not between 1 and 1000/],
    [resource("  replica: 2\n"), /4:12: resources\[0\]\.replica: unknown field \(did you mean "replicas"\?\)/],
    [resource("  allocationPolicy: any\n"), /"any" is none of distributed, packed/],
    [resource("  deviceListStrategy: [envvar]\n"), /"envvar" is none of cdi-cri, cdi-annotations/],
    [resource("- name: mock.com/gpu\n"), /"mock\.com\/gpu" is there twice/],
  ];
  for (const [text, message] of cases) assert.throws(() => parseConfig(text, "/c.yaml"), { message }, text);
});

async function saysOf(child: ChildProcess, output: () => string, wanted: RegExp): Promise<void> {
  while (!wanted.test(output())) await new Promise((resolve) => child.stdout?.once("data", resolve));
}
