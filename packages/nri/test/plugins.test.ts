/** Plugins come, are configured and synchronized, are called in their order, and go, in whatever way. */
import assert from "node:assert/strict";
import { once } from "node:events";
import { mkdir, stat, writeFile } from "node:fs/promises";
import { connect } from "node:net";
import { describe, test } from "node:test";
import { create } from "@bufbuild/protobuf";
import { ContainerSchema, PodSandboxSchema } from "@berth/spec/nri";
import { CODE, TtrpcError } from "@berth/ttrpc";
import { Door } from "@berth/nri/door";
import { container, POD, Rig } from "./rig.ts";

describe("plugins come", () => {
  test("the socket is root's alone; a plugin that connects is configured, synchronized and told what happens", async (t) => {
    const known = { pods: [POD], containers: [container().container] };
    const rig = await Rig.open(t, { host: { known: () => Promise.resolve(known) } });
    assert.equal((await stat(rig.socket)).mode & 0o777, 0o600);
    assert.equal(rig.nri.isActive, false);
    const plugin = await rig.plugin({ name: "watch", index: "42" });
    assert.equal(rig.nri.isActive, true);
    const { runtimeName, registrationTimeout, requestTimeout } = await plugin.request("configure");
    assert.deepEqual([runtimeName, registrationTimeout, requestTimeout], ["berth", 60_000n, 60_000n]);
    const { pods, containers, more } = await plugin.request("synchronize");
    assert.deepEqual([pods[0]?.id, containers[0]?.id, more], ["pod", "one", false]);
    await rig.nri.runPodSandbox(POD);
    await rig.nri.startContainer(container());
    await rig.nri.stopContainer(container());
    assert.deepEqual(
      plugin.told.map(({ call }) => call),
      ["configure", "synchronize", "runPodSandbox", "startContainer", "stopContainer"],
    );
  });

  test("plugins are called in the order of their index, whenever they came, and only for what they want", async (t) => {
    const rig = await Rig.open(t);
    const order: string[] = [];
    for (const index of ["50", "05", "30"]) {
      const startContainer = () => Promise.resolve(void order.push(index)).then(() => ({}));
      await rig.plugin({ index, handlers: { startContainer } });
    }
    const other = await rig.plugin({ index: "01", events: ["REMOVE_CONTAINER"] });
    await rig.nri.startContainer(container());
    assert.deepEqual(order, ["05", "30", "50"]);
    assert.ok(!other.told.some(({ call }) => call === "startContainer"));
  });

  test("what exists is told in several messages where it is more than one holds", async (t) => {
    const large = "x".repeat(1 << 20);
    const pods = Array.from({ length: 6 }, (_, at) =>
      create(PodSandboxSchema, { id: `p${at}`, annotations: { large } }),
    );
    const containers = Array.from({ length: 5 }, (_, at) => create(ContainerSchema, { id: `c${at}`, args: [large] }));
    const rig = await Rig.open(t, { host: { known: () => Promise.resolve({ pods, containers }) } });
    const plugin = await rig.plugin();
    const parts = plugin.told
      .filter(({ call }) => call === "synchronize")
      .map(({ request }) => request as { more: boolean });
    assert.deepEqual(
      parts.map(({ more }) => more),
      [true, true, true, false],
    );
    const ids = (key: "pods" | "containers"): string[] =>
      parts.flatMap((part) => (part as unknown as Record<string, { id: string }[]>)[key]?.map(({ id }) => id) ?? []);
    assert.deepEqual(ids("pods"), ["p0", "p1", "p2", "p3", "p4", "p5"]);
    assert.deepEqual(ids("containers"), ["c0", "c1", "c2", "c3", "c4"]);
  });

  test("a plugin that cannot take several messages does not take part", async (t) => {
    const pods = Array.from({ length: 6 }, (_, at) =>
      create(PodSandboxSchema, { id: `p${at}`, annotations: { large: "x".repeat(1 << 20) } }),
    );
    const rig = await Rig.open(t, { host: { known: () => Promise.resolve({ pods, containers: [] }) } });
    await assert.rejects(rig.plugin({ handlers: { synchronize: () => Promise.resolve({}) } }), /has ended/);
    assert.match(rig.said.join("\n"), /does not take part: the plugin does not handle split sync requests/);
    assert.equal(rig.nri.isActive, false);
  });

  test("names that are none, events that there are not, and silence are turned away", async (t) => {
    const rig = await Rig.open(t);
    await assert.rejects(rig.plugin({ name: "a b" }), /invalid plugin name "a b"/);
    await assert.rejects(rig.plugin({ index: "7" }), /invalid plugin index "7", must be 2 digits/);
    const configure = () => Promise.resolve({ events: 1 << 20 });
    await assert.rejects(rig.plugin({ handlers: { configure } }), /has ended/);
    rig.patienceMs.registration = 100;
    const silent = connect(rig.socket);
    await once(silent.resume(), "close");
    await Promise.all(rig.admitted);
    assert.match(rig.said.join("\n"), /invalid plugin events: 0x100000[^]*plugin registration timed out/);
  });

  test("who speaks something else is cut off", async (t) => {
    const rig = await Rig.open(t);
    const stranger = connect(rig.socket);
    stranger.write("GET / HTTP/1.1\r\nHost: somewhere\r\n\r\n");
    await once(stranger.resume(), "close");
    await Promise.all(rig.admitted);
    assert.match(rig.said.join("\n"), /does not take part: the connection ended before the plugin had registered/);
  });

  test("a socket that another runtime serves stays that one's", async (t) => {
    const rig = await Rig.open(t);
    await assert.rejects(
      Door.open(rig.socket, () => undefined),
      /another runtime serves NRI at/,
    );
    await rig.plugin();
  });
});

describe("plugins of the node's directory", () => {
  const SCRIPT = `#!${process.execPath} --disable-warning=ExperimentalWarning
import { Socket } from "node:net";
import { TestPlugin } from "@@/src/testing/plugin.ts";
const { NRI_PLUGIN_NAME: pluginName, NRI_PLUGIN_IDX: pluginIdx, NRI_PLUGIN_SOCKET: fd } = process.env;
const environment = Object.keys(process.env).sort().join();
const handlers = {
  configure: ({ config }) => (console.log("config " + config), Promise.resolve({ events: 0 })),
  createContainer: () => Promise.resolve({ adjust: { env: [{ key: "BY", value: pluginIdx + " " + pluginName + " " + environment }] } }),
};
const plugin = new TestPlugin(new Socket({ fd: Number(fd) }), { handlers });
await plugin.register({ pluginName, pluginIdx });
await plugin.closed;
`;

  test("are started with their connection at a descriptor and their configuration, and end with it", async (t) => {
    const rig = await Rig.open(t);
    const [plugins, configs] = [`${rig.directory}/plugins`, `${rig.directory}/conf.d`];
    for (const directory of [plugins, configs]) await mkdir(directory);
    const script = SCRIPT.replace("@@", new URL("..", import.meta.url).pathname.replace(/\/$/, ""));
    await writeFile(`${plugins}/10-env.mjs`, script, { mode: 0o755 });
    await writeFile(`${plugins}/20-broken`, "#!/does/not/exist\n", { mode: 0o755 });
    await writeFile(`${plugins}/readme.txt`, "no program\n", { mode: 0o644 });
    await writeFile(`${configs}/env.mjs.conf`, "for any index");
    await writeFile(`${configs}/10-env.mjs.conf`, "for ten");
    await rig.start(plugins, configs);
    const { adjustment } = await rig.nri.createContainer(container());
    assert.equal(adjustment?.env[0]?.value, "10 env.mjs NRI_PLUGIN_IDX,NRI_PLUGIN_NAME,NRI_PLUGIN_SOCKET");
    assert.match(rig.said.join("\n"), /info: config for ten/);
    assert.match(rig.said.join("\n"), /warn: the plugin could not be started: spawn .*20-broken ENOENT/);
    await rig.nri[Symbol.asyncDispose]();
    assert.match(rig.said.join("\n"), /the plugin's process has ended/);
  });

  test("a program whose name says no order is refused by name", async (t) => {
    const rig = await Rig.open(t);
    await writeFile(`${rig.directory}/logger`, "", { mode: 0o755 });
    await assert.rejects(
      rig.start(rig.directory, rig.directory),
      /logger: invalid plugin name "logger", NN-name expected/,
    );
  });
});

describe("plugins fail", () => {
  test("one that goes in the middle of a call is dropped, and the call goes on with the others", async (t) => {
    const rig = await Rig.open(t);
    const dying = await rig.plugin({
      index: "10",
      handlers: { startContainer: async () => (await dying[Symbol.asyncDispose](), {}) },
    });
    const other = await rig.plugin({ index: "20" });
    await rig.nri.startContainer(container());
    await other.request("startContainer");
    await rig.nri.startContainer(container());
    assert.match(rig.said.join("\n"), /the plugin is dropped: it failed to handle START_CONTAINER/);
  });

  test("one that does not answer in time is dropped and cut off, and the call goes on", async (t) => {
    const rig = await Rig.open(t);
    const never = new Promise<never>(() => undefined);
    const hanging = await rig.plugin({ index: "10", handlers: { createContainer: () => never } });
    rig.patienceMs.request = 100;
    const { adjustment } = await rig.nri.createContainer(container());
    assert.equal(adjustment, undefined);
    await hanging.closed;
    assert.equal(rig.nri.isActive, false);
  });

  test("what a plugin refuses fails the call with its words, and it stays", async (t) => {
    const rig = await Rig.open(t);
    const refuse = () => Promise.reject(new TtrpcError(CODE.unknown, "not on my node"));
    await rig.plugin({ index: "07", name: "strict", handlers: { runPodSandbox: refuse } });
    const later = await rig.plugin({ index: "08" });
    await assert.rejects(rig.nri.runPodSandbox(POD), /plugin 07-strict: not on my node/);
    assert.ok(!later.told.some(({ call }) => call === "runPodSandbox"));
    assert.equal(rig.nri.isActive, true);
  });

  test("one of before each event had a call of its own is told by StateChange", async (t) => {
    const rig = await Rig.open(t);
    const unknown = () => Promise.reject(new TtrpcError(CODE.unimplemented, "method StartContainer"));
    const old = await rig.plugin({ handlers: { startContainer: unknown } });
    await rig.nri.startContainer(container());
    await rig.nri.startContainer(container());
    const changes = old.told.filter(({ call }) => call === "stateChange").map(({ request }) => request);
    assert.deepEqual(
      changes.map((change) => (change as { event: number; container: { id: string } }).container.id),
      ["one", "one"],
    );
    assert.equal(old.told.filter(({ call }) => call === "startContainer").length, 1);
    assert.equal(rig.said.filter((line) => line.includes("deprecates")).length, 1);
  });
});

describe("plugins ask of their own accord", () => {
  test("updates are carried out; those that fail are told, unless they may", async (t) => {
    const update = ({ containerId }: { containerId: string }): Promise<void> =>
      containerId === "gone" ? Promise.reject(new Error("it is exited")) : Promise.resolve();
    const rig = await Rig.open(t, { host: { update } });
    const plugin = await rig.plugin();
    const linux = { resources: { cpu: { shares: { value: 512n } } } };
    await plugin.update({
      update: [
        { containerId: "one", linux },
        { containerId: "gone", linux, ignoreFailure: true },
      ],
    });
    await assert.rejects(
      plugin.update({ update: [{ containerId: "gone", linux }], evict: [{ containerId: "one" }] }),
      /update of some containers failed: gone/,
    );
    assert.match(rig.said.join("\n"), /could not be: it is exited/);
    assert.match(rig.said.join("\n"), /asked for evictions, which no runtime carries out/);
  });
});
