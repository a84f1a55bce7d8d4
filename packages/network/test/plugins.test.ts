/** With the CNI project's own plugins, as root: a namespace, a bridge, a subnet and a data directory of the test's own. */
import assert from "node:assert/strict";
import { execFile, execFileSync } from "node:child_process";
import { readdirSync, existsSync } from "node:fs";
import { readdir } from "node:fs/promises";
import { connect } from "node:net";
import { join } from "node:path";
import { suite, test, type TestContext } from "node:test";
import { promisify } from "node:util";
import { Cni, defaultConflist, DEFAULT_BIN_DIRS } from "../src/index.ts";
import { startHand } from "@berth/kernel";
import { Bench } from "./fake.ts";

const BOSUN = join(import.meta.dirname, "../../../.build/native/bosun");

const run = promisify(execFile);
const sh = async (command: string): Promise<string> => (await run("sh", ["-c", command])).stdout;
const tag = `${process.pid % 10_000}`;
const NETNS = `berth-t${tag}`;
const BRIDGE = `bt${tag}`;
const SUBNET = `10.${200 + (process.pid % 13)}.${process.pid % 250}.0/24`;
const IDS = ["berthtest", "berthgone", "berthfail"].map((name) => `${name}${tag}`);
/** Between those of berthd's own tests (tests/support/claims.ts) and those that the kernel gives out. */
const HOST_PORT = 31_000 + (process.pid % 1_500);

/** Why the machine cannot run these, if so. */
function lacking(): string | undefined {
  if (process.getuid?.() !== 0) return "needs root";
  const missing = ["bridge", "host-local", "portmap", "loopback"].filter(
    (plugin) => !DEFAULT_BIN_DIRS.some((dir) => existsSync(join(dir, plugin))),
  );
  if (missing.length > 0) return `needs the cni plugins ${missing.join(", ")} (Debian: containernetworking-plugins)`;
  for (const command of [
    ["ip", "netns", "list"],
    ["iptables", "-w", "-t", "nat", "-S"],
    ["busybox", "true"],
  ]) {
    try {
      execFileSync(command[0] ?? "", command.slice(1), { stdio: "pipe" });
    } catch (error) {
      return `${command.join(" ")} does not work: ${(error as Error).message.split("\n")[0]}`;
    }
  }
  return undefined;
}

/** Everything the host would show of a leak: links of the bridge, rules and leases with the test's marks. */
async function traces(bench: Bench, containerId: string): Promise<string[]> {
  const links = (await sh(`ip -o link show master ${BRIDGE} 2>/dev/null || true`)).split("\n").filter(Boolean);
  const rules = (
    await sh(
      `iptables-save 2>/dev/null | grep -e ${containerId} -e '${SUBNET.split("/")[0]?.replace(/0$/, "")}' || true`,
    )
  )
    .split("\n")
    .filter(Boolean);
  const leases = await readdir(join(bench.root, "leases", "net")).catch(() => []);
  return [...links, ...rules, ...leases.filter((name) => /^\d/.test(name))];
}

async function withNetwork(
  t: TestContext,
  work: (bench: Bench, cni: Cni) => Promise<void>,
  options: { ipMasq?: boolean } = {},
): Promise<void> {
  const reason = lacking();
  if (reason !== undefined) return t.skip(reason);
  await using bench = await Bench.make();
  const conf = defaultConflist({
    name: "net",
    bridge: BRIDGE,
    subnet: SUBNET,
    dataDir: join(bench.root, "leases"),
  }) as { plugins: object[] };
  await bench.conf("10-net.conflist", {
    ...conf,
    plugins: conf.plugins.map((plugin, index) => (index === 0 ? { ...plugin, ...options } : plugin)),
  });
  const hand = await startHand({ bosun: BOSUN, state: bench.root });
  await using cni = await Cni.open({ hand, confDir: bench.confDir, cacheDir: bench.cacheDir });
  await sh(`ip netns add ${NETNS} && ip -n ${NETNS} link set lo up`);
  try {
    await work(bench, cni);
  } finally {
    for (const containerId of IDS) await cni.del({ containerId, netns: `/run/netns/${NETNS}` });
    await hand.close();
    await sh(`ip netns del ${NETNS}; ip link del ${BRIDGE} 2>/dev/null || true`);
  }
}

suite("the standard plugins", () => {
  test("ADD, ping, a host port, CHECK, DEL twice: nothing is left", async (t) => {
    await withNetwork(t, async (bench, cni) => {
      const containerId = `berthtest${tag}`;
      const attachment = {
        containerId,
        netns: `/run/netns/${NETNS}`,
        capabilities: { portMappings: [{ hostPort: HOST_PORT, containerPort: 8080, protocol: "tcp" as const }] },
      };
      assert.deepEqual(await cni.probe(), { ready: true, reason: "", network: "net" });
      const result = await cni.add(attachment);
      const ip = result.ips[0]?.address ?? "";
      assert.match(ip, /^10\./);
      assert.match(await sh(`ip -n ${NETNS} -o -4 addr show eth0`), new RegExp(`${ip}/24`));
      await sh(`busybox ping -c 1 -W 5 ${ip}`);
      assert.equal(await throughHostPort(), "pod");
      assert.notDeepEqual(await traces(bench, containerId), []);
      await cni.del(attachment);
      await cni.del(attachment);
      assert.deepEqual(await traces(bench, containerId), []);
      assert.deepEqual(readdirSync(join(bench.cacheDir, "results")), []);
    });
  });

  test("CHECK says yes, and no when the interface is gone", async (t) => {
    await withNetwork(
      t,
      async (_bench, cni) => {
        const attachment = { containerId: `berthtest${tag}`, netns: `/run/netns/${NETNS}` };
        await cni.add(attachment);
        await cni.check(attachment);
        await sh(`ip -n ${NETNS} link del eth0`);
        await assert.rejects(cni.check(attachment), /plugin bridge: CHECK: /);
      },
      { ipMasq: false },
    );
  });

  // Without ipMasq: the bridge plugin (1.1 to 1.6) reads the masqueraded address from the interface and cannot drop its
  // rule once the namespace is gone, whichever runtime asks. So a runtime must call DEL before it lets a namespace go.
  test("DEL of a namespace that is gone frees its address and rules", async (t) => {
    await withNetwork(
      t,
      async (bench, cni) => {
        const containerId = `berthgone${tag}`;
        const attachment = {
          containerId,
          netns: `/run/netns/${NETNS}`,
          capabilities: { portMappings: [{ hostPort: HOST_PORT, containerPort: 8080, protocol: "tcp" as const }] },
        };
        await cni.add(attachment);
        await sh(`ip netns del ${NETNS} && ip netns add ${NETNS}`);
        await cni.del({ ...attachment, netns: `/run/netns/${NETNS}-none` });
        // The kernel ends the dead namespace's veth in its own time.
        for (let tries = 0; (await traces(bench, containerId)).length > 0 && tries < 500; tries++)
          await sh("sleep 0.02");
        assert.deepEqual(await traces(bench, containerId), []);
      },
      { ipMasq: false },
    );
  });

  test("a plugin that fails after others have worked leaves nothing", async (t) => {
    await withNetwork(t, async (bench, cni) => {
      const containerId = `berthfail${tag}`;
      const mapping = { hostPort: HOST_PORT, containerPort: 8080, protocol: "none" as "tcp" };
      await assert.rejects(
        cni.add({ containerId, netns: `/run/netns/${NETNS}`, capabilities: { portMappings: [mapping] } }),
        /plugin portmap: ADD: /,
      );
      assert.deepEqual(await traces(bench, containerId), []);
      assert.deepEqual(readdirSync(join(bench.cacheDir, "results")), []);
    });
  });
});

/** Serves one connection inside the namespace and reads it through the host's loopback. */
async function throughHostPort(): Promise<string> {
  const server = `require("node:net").createServer((s) => s.end("pod")).listen(8080, () => console.log("up"))`;
  const child = execFile("ip", ["netns", "exec", NETNS, process.execPath, "-e", server]);
  try {
    await new Promise((resolve, reject) => {
      child.stdout?.once("data", resolve);
      child.once("exit", () => reject(new Error("the server in the namespace ended")));
    });
    return await new Promise<string>((resolve, reject) => {
      const socket = connect(HOST_PORT, "127.0.0.1");
      let text = "";
      socket.setTimeout(30_000, () => socket.destroy(new Error(`no answer on 127.0.0.1:${HOST_PORT}`)));
      socket
        .on("data", (chunk) => (text += chunk.toString()))
        .on("end", () => resolve(text))
        .on("error", reject);
    });
  } finally {
    child.kill("SIGKILL");
  }
}
