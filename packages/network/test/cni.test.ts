import assert from "node:assert/strict";
import { on, once } from "node:events";
import { watch } from "node:fs";
import { mkdir, readFile, readdir, rm, writeFile } from "node:fs/promises";
import { spawn, spawnSync } from "node:child_process";
import { join } from "node:path";
import { suite, test } from "node:test";
import { Cni, CniError, kubernetesArgs } from "../src/index.ts";
import { Bench, RESULT, spawningHand } from "./fake.ts";

const ID = "0f1e2d3c";
const POD = { containerId: ID, netns: "/run/netns/pod" };

async function bench(options: { version?: string; plugins?: object[] } = {}): Promise<Bench> {
  const made = await Bench.make();
  for (const name of ["first", "second", "third"]) {
    await made.plugin(name);
    await made.answers(name, "ADD", { stdout: { ...RESULT, marker: name } });
  }
  const plugins = options.plugins ?? [
    { type: "first" },
    { type: "second", capabilities: { portMappings: true } },
    { type: "third" },
  ];
  await made.conf("10-net.conflist", { cniVersion: options.version ?? "1.0.0", name: "net", plugins });
  return made;
}

const openCni = (made: Bench, more: object = {}) =>
  Cni.open({
    hand: spawningHand(),
    confDir: made.confDir,
    binDirs: ["/nowhere", made.binDir],
    cacheDir: made.cacheDir,
    ...more,
  });
/** Nothing has gone while the lock was held. */
async function addressesWhileHeld(dir: string): Promise<string> {
  await new Promise((resolve) => setTimeout(resolve, 300));
  assert.equal((await readdir(dir)).length, 5);
  return "";
}
const cached = async (made: Bench) =>
  (await readdir(join(made.cacheDir, "results")).catch(() => [])).filter((name) => !name.endsWith(".tmp"));

suite("ADD", () => {
  test("runs the list in order, each with its predecessor's result, and says what came of it", async () => {
    await using made = await bench();
    await using cni = await openCni(made);
    const result = await cni.add({
      ...POD,
      args: kubernetesArgs({ namespace: "default", name: "web", id: ID, uid: "u-1" }),
    });
    assert.deepEqual(result.ips, [
      { address: "10.1.2.3", prefix: 24, gateway: "10.1.2.1", interface: 1 },
      { address: "fd00::3", prefix: 64, interface: 1 },
    ]);
    assert.deepEqual(result.dns.nameservers, ["10.1.2.1"]);
    assert.deepEqual(result.routes, [{ dst: "0.0.0.0/0" }]);
    const calls = await made.calls();
    assert.deepEqual(
      calls.map((call) => `${call.command} ${call.plugin}`),
      ["ADD first", "ADD second", "ADD third"],
    );
    assert.deepEqual(
      calls.map((call) => (call.conf["prevResult"] as { marker?: string } | undefined)?.marker),
      [undefined, "first", "second"],
    );
    assert.deepEqual(calls[0]?.env, {
      CNI_COMMAND: "ADD",
      CNI_CONTAINERID: ID,
      CNI_NETNS: POD.netns,
      CNI_IFNAME: "eth0",
      CNI_ARGS: `IgnoreUnknown=1;K8S_POD_NAMESPACE=default;K8S_POD_NAME=web;K8S_POD_INFRA_CONTAINER_ID=${ID};K8S_POD_UID=u-1`,
      CNI_PATH: `/nowhere:${made.binDir}`,
    });
    assert.deepEqual(
      calls.map((call) => [call.conf["name"], call.conf["cniVersion"]]),
      [
        ["net", "1.0.0"],
        ["net", "1.0.0"],
        ["net", "1.0.0"],
      ],
    );
  });

  test("gives capability arguments only to plugins that declare them, and no empty ones", async () => {
    await using made = await bench();
    await using cni = await openCni(made);
    const mapping = { hostPort: 8080, containerPort: 80, protocol: "tcp" as const };
    await cni.add({
      ...POD,
      capabilities: { portMappings: [mapping, { ...mapping, hostPort: 0 }], bandwidth: { ingressRate: 1 } },
    });
    assert.deepEqual(
      (await made.calls()).map((call) => call.conf["runtimeConfig"]),
      [undefined, { portMappings: [mapping] }, undefined],
    );
  });

  test("host ports that no plugin maps are warned about", async () => {
    await using made = await bench({ plugins: [{ type: "first" }] });
    const warnings: string[] = [];
    await using cni = await openCni(made, {
      log: { info() {}, warn: (_fields: object, message: string) => warnings.push(message) },
    });
    await cni.add({ ...POD, capabilities: { portMappings: [{ hostPort: 1, containerPort: 1, protocol: "tcp" }] } });
    assert.match(warnings.join(), /host ports are not mapped/);
  });

  test("that fails midway is undone in reverse, and the error names network, plugin, message, details and code", async () => {
    await using made = await bench();
    await made.answers("second", "ADD", {
      stdout: { cniVersion: "1.0.0", code: 7, msg: "no room", details: "pool is empty" },
      status: 1,
    });
    await using cni = await openCni(made);
    await assert.rejects(cni.add(POD), (error) => {
      assert(error instanceof CniError);
      assert.equal(error.message, `cni network "net": plugin second: ADD: no room; pool is empty (code 7)`);
      assert.deepEqual([error.code, error.plugin, error.kind], [7, "second", "refused"]);
      return true;
    });
    assert.deepEqual(await made.sequence(), ["ADD first", "ADD second", "DEL third", "DEL second", "DEL first"]);
    assert.deepEqual(await cached(made), []);
  });

  test("by a plugin that dies without the error object tells its exit status and what it said", async () => {
    await using made = await bench();
    await made.answers("first", "ADD", { stdout: "", stderr: "panic: oops", status: 2 });
    await using cni = await openCni(made);
    await assert.rejects(cni.add(POD), /plugin first: ADD: exit status 2: panic: oops$/);
  });

  test("by a plugin that is missing tells where it was looked for and who has it", async () => {
    await using made = await bench({ plugins: [{ type: "first" }, { type: "bandwidth" }] });
    await using cni = await openCni(made);
    await assert.rejects(
      cni.add(POD),
      (error) =>
        error instanceof CniError &&
        error.kind === "missing" &&
        error.message.endsWith(
          `no executable bandwidth in /nowhere or ${made.binDir}: install Debian's or Ubuntu's package containernetworking-plugins, or put it into one of them`,
        ),
    );
    assert.deepEqual(await made.sequence(), ["ADD first", "DEL first"]);
    assert.deepEqual(await cached(made), []);
    assert.equal((await cni.probe()).ready, false);
  });

  for (const [what, stdout, message] of [
    ["nothing", "", /answered nothing/],
    ["no JSON", "hello", /not a JSON object: "hello"/],
    ["no result", `{"ips":[{"address":"10.0.0.300/8"}]}`, /not a result: ips\[0\]\.address: "10\.0\.0\.300\/8"/],
  ] as const) {
    test(`answered with ${what} is an error and undone`, async () => {
      await using made = await bench();
      await made.answers("first", "ADD", { stdout });
      await using cni = await openCni(made);
      await assert.rejects(cni.add(POD), message);
      assert.deepEqual((await made.sequence()).slice(1), ["DEL third", "DEL second", "DEL first"]);
    });
  }

  test("that is cancelled ends the plugin and is undone all the same", async () => {
    await using made = await bench();
    const fifo = join(made.binDir, "second.ADD.wait");
    assert.equal(spawnSync("mkfifo", [fifo]).status, 0);
    await using cni = await openCni(made);
    const abort = new AbortController();
    const watcher = watch(made.binDir);
    const changes = on(watcher, "change");
    const failed = assert.rejects(cni.add(POD, { signal: abort.signal }), /enough/);
    for await (const [, name] of changes) if (name === "second.ADD.started") break;
    watcher.close();
    abort.abort(new Error("enough"));
    await failed;
    assert.deepEqual(await made.sequence(), ["ADD first", "ADD second", "DEL third", "DEL second", "DEL first"]);
    assert.deepEqual(await cached(made), []);
  });

  test("to several networks counts interfaces on, and DEL goes back over all of them", async () => {
    await using made = await bench({ plugins: [{ type: "first" }] });
    await made.conf("20-more.conflist", { cniVersion: "1.0.0", name: "more", plugins: [{ type: "second" }] });
    await using cni = await openCni(made, { maxNetworks: 0 });
    const result = await cni.add(POD);
    assert.deepEqual(
      result.networks.map((network) => [network.network, network.ifName]),
      [
        ["net", "eth0"],
        ["more", "eth1"],
      ],
    );
    await cni.del(POD);
    assert.deepEqual(
      (await made.calls()).map((call) => `${call.command} ${call.plugin} ${call.env["CNI_IFNAME"]}`),
      ["ADD first eth0", "ADD second eth1", "DEL second eth1", "DEL first eth0"],
    );
  });

  test("without a network says what is missing and where", async () => {
    await using made = await Bench.make();
    await using cni = await openCni(made);
    assert.deepEqual(cni.status(), {
      ready: false,
      reason: `no cni network configured: no *.conflist or *.conf in ${made.confDir}`,
      network: undefined,
    });
    await assert.rejects(cni.add(POD), /no cni network configured/);
  });

  for (const [what, request] of [
    ["container id", { ...POD, containerId: "../x" }],
    ["interface name", { ...POD, ifName: "a/b" }],
    ["cni argument", { ...POD, args: { A: "1;CNI=2" } }],
  ] as const) {
    test(`refuses a bad ${what} before anything is done`, async () => {
      await using made = await bench();
      await using cni = await openCni(made);
      await assert.rejects(cni.add(request), new RegExp(what));
      assert.deepEqual(await made.calls(), []);
    });
  }

  test("results of the first editions are understood", async () => {
    await using made = await bench({ version: "0.2.0", plugins: [{ type: "first" }] });
    await made.answers("first", "ADD", {
      stdout: {
        cniVersion: "0.2.0",
        ip4: { ip: "10.9.0.2/16", gateway: "10.9.0.1", routes: [{ dst: "0.0.0.0/0" }] },
        dns: {},
      },
    });
    await using cni = await openCni(made);
    const result = await cni.add(POD);
    assert.deepEqual(result.ips, [{ address: "10.9.0.2", prefix: 16, gateway: "10.9.0.1" }]);
    await cni.del(POD);
    assert.equal((await made.calls()).at(-1)?.conf["prevResult"], undefined, "no prevResult at DEL before 0.4.0");
  });
});

suite("DEL", () => {
  test("runs in reverse with the recorded result, and forgets it", async () => {
    await using made = await bench();
    await using cni = await openCni(made);
    await cni.add(POD);
    assert.deepEqual(await cached(made), [`net-${ID}-eth0`]);
    await cni.del(POD);
    const deletions = (await made.calls()).slice(3);
    assert.deepEqual(
      deletions.map((call) => call.plugin),
      ["third", "second", "first"],
    );
    assert.deepEqual(
      deletions.map((call) => (call.conf["prevResult"] as { marker: string }).marker),
      ["third", "third", "third"],
    );
    assert.deepEqual(
      deletions.map((call) => call.env["CNI_NETNS"]),
      ["", "", ""],
      "a namespace that is gone is passed as none",
    );
    assert.deepEqual(await cached(made), []);
  });

  test("after a restart goes by the record, whatever became of the configuration", async () => {
    await using made = await bench();
    const mapping = { hostPort: 8080, containerPort: 80, protocol: "tcp" as const };
    {
      await using cni = await openCni(made);
      await cni.add({ ...POD, args: { A: "1" }, capabilities: { portMappings: [mapping] } });
    }
    await rm(join(made.confDir, "10-net.conflist"));
    await using cni = await openCni(made);
    await cni.del(POD);
    const deletions = (await made.calls()).slice(3);
    assert.deepEqual(
      deletions.map((call) => call.plugin),
      ["third", "second", "first"],
    );
    assert.deepEqual(deletions[1]?.conf["runtimeConfig"], { portMappings: [mapping] });
    assert.equal(deletions[0]?.env["CNI_ARGS"], "A=1");
  });

  test("without a record, or with a spoilt one, goes by the configuration", async () => {
    await using made = await bench();
    await using cni = await openCni(made);
    await cni.del(POD);
    await cni.add(POD);
    await writeFile(join(made.cacheDir, "results", `net-${ID}-eth0`), "");
    await cni.del(POD);
    assert.deepEqual(await made.sequence(), [
      "DEL third",
      "DEL second",
      "DEL first",
      "ADD first",
      "ADD second",
      "ADD third",
      "DEL third",
      "DEL second",
      "DEL first",
    ]);
    assert.deepEqual(await cached(made), []);
  });

  test("tries every plugin, names the one that failed, and can be repeated", async () => {
    await using made = await bench();
    await using cni = await openCni(made);
    await cni.add(POD);
    await made.answers("second", "DEL", { stdout: { code: 5, msg: "rules are stuck" }, status: 1 });
    await assert.rejects(cni.del(POD), /^CniError: cni network "net": plugin second: DEL: rules are stuck \(code 5\)$/);
    assert.deepEqual((await made.sequence()).slice(3), ["DEL third", "DEL second", "DEL first"]);
    await made.answers("second", "DEL", { stdout: "", status: 0 });
    await cni.del(POD);
    assert.deepEqual(await cached(made), []);
  });

  test("waits for an ADD of the same container that is under way", async () => {
    await using made = await bench();
    await using cni = await openCni(made);
    await Promise.all([cni.add(POD), cni.del(POD)]);
    assert.deepEqual(await made.sequence(), [
      "ADD first",
      "ADD second",
      "ADD third",
      "DEL third",
      "DEL second",
      "DEL first",
    ]);
  });
});

suite("the record", () => {
  test("is libcni's format", async () => {
    await using made = await bench();
    await using cni = await openCni(made);
    await cni.add({ ...POD, args: { A: "1" } });
    const record = JSON.parse(await readFile(join(made.cacheDir, "results", `net-${ID}-eth0`), "utf8")) as Record<
      string,
      unknown
    >;
    assert.deepEqual(
      [
        record["kind"],
        record["containerId"],
        record["ifName"],
        record["networkName"],
        record["netns"],
        record["cniArgs"],
      ],
      ["cniCacheV1", ID, "eth0", "net", POD.netns, [["A", "1"]]],
    );
    const config = JSON.parse(Buffer.from(record["config"] as string, "base64").toString()) as {
      name: string;
      plugins: unknown[];
    };
    assert.deepEqual([config.name, config.plugins.length], ["net", 3]);
    assert.equal((record["result"] as { marker: string }).marker, "third");
  });
});

suite("CHECK, GC and STATUS", () => {
  test("CHECK passes the recorded result and stops at the first that says no", async () => {
    await using made = await bench();
    await using cni = await openCni(made);
    await assert.rejects(cni.check(POD), /not attached/);
    await cni.add(POD);
    await cni.check(POD);
    await made.answers("second", "CHECK", { stdout: { code: 100, msg: "veth is gone" }, status: 1 });
    await assert.rejects(cni.check(POD), /plugin second: CHECK: veth is gone/);
    assert.deepEqual((await made.sequence()).slice(3), [
      "CHECK first",
      "CHECK second",
      "CHECK third",
      "CHECK first",
      "CHECK second",
    ]);
  });

  test("CHECK is left out before 0.4.0 and where it is disabled", async () => {
    await using made = await bench({ version: "0.3.1" });
    await using cni = await openCni(made);
    await cni.add(POD);
    await cni.check(POD);
    assert.equal((await made.sequence()).length, 3);
  });

  test("GC removes what is stale of its owner's, and tells 1.1 plugins of everybody's", async () => {
    await using made = await bench({ version: "1.1.0", plugins: [{ type: "first" }] });
    await using mine = await openCni(made, { owner: "me" });
    await using theirs = await openCni(made, { owner: "them" });
    await mine.add({ ...POD, containerId: "keep" });
    await mine.add({ ...POD, containerId: "stale" });
    await theirs.add({ ...POD, containerId: "other" });
    await mine.gc(["keep", "unrecorded"]);
    const calls = (await made.calls()).slice(3);
    assert.deepEqual(
      calls.map((call) => [call.command, call.env["CNI_CONTAINERID"]]),
      [
        ["DEL", "stale"],
        ["GC", undefined],
      ],
    );
    assert.deepEqual(calls[1]?.conf["cni.dev/valid-attachments"], [
      { containerID: "keep", ifname: "eth0" },
      { containerID: "other", ifname: "eth0" },
      { containerID: "unrecorded", ifname: "eth0" },
    ]);
    assert.deepEqual((await cached(made)).sort(), ["net-keep-eth0", "net-other-eth0"]);
  });

  test("GC before 1.1 is not asked of plugins", async () => {
    await using made = await bench();
    await using cni = await openCni(made, { owner: "me" });
    await cni.gc([]);
    assert.deepEqual(await made.calls(), []);
  });

  for (const [what, collect] of Object.entries({
    "a failed ADD": (cni: Cni) => assert.rejects(cni.add(POD)),
    GC: (cni: Cni) => cni.gc([]),
  }))
    test(`${what} frees host-local's addresses that no container has, when their lock is free`, async () => {
      const made = await Bench.make();
      await using _ = made;
      const dir = join(made.cacheDir, "leases", "net");
      await mkdir(dir, { recursive: true });
      for (const name of ["10.0.0.2", "fd00::2", "lock"]) await writeFile(join(dir, name), "");
      for (const name of ["10.0.0.3", "last_reserved_ip.0"]) await writeFile(join(dir, name), "somebody\r\neth0");
      await made.plugin("first");
      await made.answers("first", "ADD", { stdout: { code: 100, msg: "no" }, status: 1 });
      const ipam = { type: "host-local", dataDir: join(made.cacheDir, "leases") };
      await made.conf("10-net.conflist", { cniVersion: "1.0.0", name: "net", plugins: [{ type: "first", ipam }] });
      await using cni = await openCni(made, { owner: "me" });
      // Another that looks for an address at this moment.
      const other = spawn("flock", [join(dir, "lock"), "sh", "-c", "echo held; cat"], { stdio: "pipe" });
      await once(other.stdout, "data");
      const done = collect(cni);
      other.stdin.end(await addressesWhileHeld(dir));
      await done;
      assert.deepEqual((await readdir(dir)).sort(), ["10.0.0.3", "last_reserved_ip.0", "lock"]);
    });

  test("probe asks 1.1 plugins for their STATUS", async () => {
    await using made = await bench({ version: "1.1.0", plugins: [{ type: "first" }] });
    await using cni = await openCni(made);
    assert.deepEqual(await cni.probe(), { ready: true, reason: "", network: "net" });
    await made.answers("first", "STATUS", { stdout: { code: 50, msg: "no daemon" }, status: 1 });
    assert.deepEqual(await cni.probe(), {
      ready: false,
      reason: `cni network "net": plugin first: STATUS: no daemon (code 50)`,
      network: "net",
    });
  });
});
