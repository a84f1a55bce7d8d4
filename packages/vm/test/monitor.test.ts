/** Kata's management of a pod over its socket, and the monitor that asks all of them. */
import assert from "node:assert/strict";
import { existsSync, mkdtempSync, rmSync, statSync } from "node:fs";
import { createServer } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { PassThrough } from "node:stream";
import { afterEach, beforeEach, test } from "node:test";
import { VmError } from "../src/errors.ts";
import { askManagement, dial } from "../src/management/client.ts";
import { serveAgentSocket } from "../src/management/agent-socket.ts";
import { findSandbox, listSandboxes } from "../src/management/place.ts";
import type { ManagedSandbox } from "../src/management/sandbox.ts";
import { removeManagement, serveManagement } from "../src/management/server.ts";
import { Aggregator } from "../src/monitor/aggregate.ts";
import { exposition, type Family, mergeFamilies, parseExposition } from "../src/monitor/exposition.ts";
import { FAMILIES } from "../src/monitor/families.ts";
import { Durations } from "../src/monitor/histogram.ts";
import { Overhead } from "../src/monitor/overhead.ts";
import { cpuSamples, diskSamples, meminfoItems, netdevSamples, statusItems } from "../src/monitor/proc.ts";
import { processFamilies } from "../src/monitor/processes.ts";
import { serveMonitor } from "../src/monitor/server.ts";

let dir: string;
let stack: AsyncDisposableStack;
beforeEach(() => {
  stack = new AsyncDisposableStack();
  // So long that a socket's path below it has more letters than sockaddr_un takes.
  dir = mkdtempSync(join(tmpdir(), "berth-monitor-of-machines-"));
});
afterEach(async () => {
  await stack.disposeAsync();
  rmSync(dir, { recursive: true, force: true });
});

const ID = "0123456789abcdef".repeat(4);
const OTHER = `ff${ID.slice(2)}`;
const quiet = (): void => {};

interface Calls {
  readonly said: string[];
}

async function serve(id: string, own: Partial<ManagedSandbox> = {}): Promise<Calls> {
  const said: string[] = [];
  const sandbox: ManagedSandbox = {
    id,
    metrics: () => Promise.resolve(`# HELP m words\n# TYPE m gauge\nm{item="a"} ${id === ID ? 1 : 2}\n`),
    iptables: (v6) => Promise.resolve(Buffer.from(v6 ? "six" : "four")),
    setIptables: (v6, rules) =>
      Promise.resolve(void said.push(`${v6 ? "six" : "four"} ${Buffer.from(rules).toString()}`)),
    volumeStats: (path) => Promise.resolve(`{"path":${JSON.stringify(path)}}`),
    resizeVolume: (path, size) => Promise.resolve(void said.push(`${path} ${size}`)),
    setPolicy: (text) =>
      text === "no"
        ? Promise.reject(new VmError("Denied", "SetPolicyRequest is blocked by policy"))
        : Promise.resolve(),
    ...own,
  };
  stack.use(await serveManagement(sandbox, { sandboxes: dir, log: quiet }));
  return { said };
}

test("management answers Kata's paths, to root alone", async () => {
  const { said } = await serve(ID);
  const at = join(dir, ID);
  const ask = async (path: string, more: object = {}): Promise<string> =>
    (await askManagement(at, { path, ...more })).toString();
  assert.equal(statSync(join(at, "shim-monitor.sock")).mode & 0o777, 0o600);
  assert.equal(statSync(at).mode & 0o777, 0o700);
  assert.equal(await ask("/agent-url"), `hvsock://${at}/agent.sock:1024`);
  assert.match(await ask("/metrics"), /^m\{item="a"\} 1$/m);
  assert.equal(await ask("/iptables"), "four");
  assert.equal(await ask("/ip6tables"), "six");
  assert.equal(await ask("/ip6tables", { method: "PUT", body: Buffer.from("*filter") }), "");
  assert.equal(await ask("/direct-volume/stats?path=%252Fv%252F1"), '{"path":"/v/1"}');
  assert.equal(
    await ask("/direct-volume/resize", { method: "POST", body: Buffer.from('{"VolumePath":"/v/1","Size":4096}') }),
    "",
  );
  assert.deepEqual(said, ["six *filter", "/v/1 4096"]);
  for (const [path, more, words] of [
    [
      "/policy",
      { method: "PUT", body: Buffer.from("no") },
      /status code: 500, response data: SetPolicyRequest is blocked/,
    ],
    ["/policy", {}, /status code: 501/],
    ["/nothing", {}, /status code: 404/],
    ["/direct-volume/stats", {}, /status code: 400, response data: Required parameter path not found/],
    ["/direct-volume/resize", { method: "POST", body: Buffer.from("[") }, /status code: 400.*no JSON/],
    ["/direct-volume/resize", { method: "POST", body: Buffer.from('{"VolumePath":"/v"}') }, /must have VolumePath/],
  ] as const)
    await assert.rejects(ask(path, more), words);
  await assert.rejects(askManagement(join(dir, "gone"), { path: "/metrics" }), /VmError: .*shim-monitor.sock: /);
  await serve(OTHER);
  await removeManagement(dir, ID);
  assert.deepEqual(await listSandboxes(dir), [join(dir, OTHER)]);
  await removeManagement(dir, OTHER);
  assert.deepEqual(await listSandboxes(dir), []);
  assert.equal(existsSync(dir), false);
});

test("a pod is found by its id, or the beginning of it", async () => {
  await serve(ID);
  await serve(OTHER);
  assert.equal(await findSandbox(ID, [dir]), join(dir, ID));
  assert.equal(await findSandbox("ff", [join(dir, "absent"), dir]), join(dir, OTHER));
  for (const [id, words] of [
    [undefined, /it is missing/],
    ["../x", /invalid container\/sandbox ID/],
    ["abcd", /no virtual machine runs for pod abcd/],
  ] as const)
    await assert.rejects(findSandbox(id, [dir]), words);
});

test("the agent's socket leads to the relay, and to a console where there is one", async () => {
  await serve(ID);
  const relay = createServer((socket) => {
    socket.once("data", (line) => socket.end(`relay heard ${line.toString()}`));
  }).listen(join(dir, "relay"));
  stack.defer(() => void relay.close());
  const [keyboard, screen] = [new PassThrough(), new PassThrough()];
  let ended = 0;
  let isOn = true;
  stack.use(
    await serveAgentSocket({
      directory: join(dir, ID),
      relay: join(dir, "relay"),
      console: () =>
        isOn
          ? Promise.resolve({ keyboard, screen, end: () => Promise.resolve(void ended++) })
          : Promise.reject(new VmError("Unsupported", "the debug console is off")),
      log: quiet,
    }),
  );
  const spoken = async (words: string): Promise<string> => {
    const socket = await dial(join(dir, ID), "agent.sock");
    socket.write(words);
    let text = "";
    for await (const chunk of socket as AsyncIterable<Buffer>) text += chunk.toString();
    return text;
  };
  assert.equal(await spoken("CONNECT 1024\n"), "relay heard CONNECT 1024\n");
  assert.match(await spoken("GET / HTTP/1.0\n"), /^ERR "GET \/ HTTP\/1.0" is not CONNECT and a port\n$/);
  assert.match(await spoken("x".repeat(200)), /^ERR a line of more than 64 bytes\n$/);
  screen.write("$ ");
  keyboard.once("data", (keys: Buffer) => screen.end(`typed ${keys.toString()}`));
  assert.equal(await spoken("CONNECT 1026\nls\n"), "OK 1026\n$ typed ls\n");
  assert.ok(ended > 0);
  isOn = false;
  assert.equal(await spoken("CONNECT 1026\n"), "ERR the debug console is off\n");
});

test("the monitor puts all pods' metrics together, with their names", async () => {
  await serve(ID);
  await serve(OTHER, { metrics: () => Promise.resolve('m{item="a"} 2\nn 3\ngo_threads 4\n') });
  await serve(`ee${ID.slice(2)}`, { metrics: () => Promise.reject(new VmError("Guest", "it hangs")) });
  const problems: string[] = [];
  const names = new Map([[ID, { uid: "u", name: "pod", namespace: "space" }]]);
  const aggregator = new Aggregator({
    directories: [dir],
    names: () => Promise.resolve(names),
    log: (_, message) => void problems.push(message),
  });
  const server = stack.use(await serveMonitor({ aggregator, directories: [dir], address: "127.0.0.1:0", log: quiet }));
  const get = async (path: string, accept = "*/*"): Promise<{ status: number; text: string }> => {
    const response = await fetch(`http://127.0.0.1:${server.port}${path}`, { headers: { accept } });
    return { status: response.status, text: await response.text() };
  };
  const { text } = await get("/metrics");
  const families = new Map(parseExposition(text).map((family) => [family.name, family]));
  assert.equal(families.get("kata_monitor_running_shim_count")?.samples[0]?.value, 3);
  assert.equal(families.get("kata_monitor_scrape_count")?.samples[0]?.value, 1);
  assert.ok(text.includes(`m{item="a",sandbox_id="${ID}",cri_uid="u",cri_name="pod",cri_namespace="space"} 1\n`));
  assert.ok(text.includes(`m{item="a",sandbox_id="${OTHER}",cri_uid="",cri_name="",cri_namespace=""} 2\n`));
  assert.equal(families.get("kata_shim_go_threads")?.samples.length, 1);
  assert.match(problems.join(), /failed to get metrics for sandbox ee/);
  assert.deepEqual(
    parseExposition((await get("/metrics?filter_family=n,kata_shim")).text).map(({ name }) => name),
    ["kata_shim_go_threads", "n"],
  );
  assert.equal((await get(`/metrics?sandbox=${ID}`)).text, '# HELP m words\n# TYPE m gauge\nm{item="a"} 1\n');
  assert.ok((await get("/sandboxes")).text.split("\n").includes(ID));
  assert.ok((await get("/sandboxes", "text/html,x")).text.includes(`<a href='/metrics?sandbox=${ID}'>metrics</a>`));
  assert.equal((await get(`/agent-url?sandbox=${ID}`)).text, `hvsock://${join(dir, ID)}/agent.sock:1024\n`);
  assert.equal((await get("/agent-url")).status, 400);
  assert.match((await get("/debug/pprof/?sandbox=unknown")).text, /no virtual machine runs for pod unknown/);
  assert.equal((await get(`/debug/vars?sandbox=${ID}`)).status, 500);
  assert.match((await get("/")).text, /^\/sandboxes +: List all Kata Containers sandboxes\.$/m);
  assert.match((await get("/", "text/html")).text, /<a href='\/metrics'>/);
  await assert.rejects(
    serveMonitor({ aggregator, directories: [dir], address: "here", log: quiet }),
    /listen-address: "here" is not of the form IP:PORT/,
  );
});

test("the text format is written and read", () => {
  const families: Family[] = [
    {
      name: "h",
      type: "histogram",
      help: 'with \\ and\nlines "and" marks',
      samples: [
        { suffix: "_bucket", labels: { le: "+Inf", a: 'q"\\\n,} ' }, value: 2 },
        { suffix: "_sum", labels: {}, value: 1.5 },
        { suffix: "_count", labels: {}, value: 2 },
      ],
    },
    { name: "g", type: "gauge", help: "", samples: [{ labels: {}, value: Infinity }] },
  ];
  const text = exposition(families);
  assert.equal(exposition(parseExposition(text)), text);
  assert.deepEqual(
    mergeFamilies([...families, ...families]).map(({ name, samples }) => [name, samples.length]),
    [
      ["g", 2],
      ["h", 6],
    ],
  );
  for (const bad of ["a{b=c} 1", "a b c d", "{} 1", "a x", "# TYPE a thing"])
    assert.throws(() => parseExposition(`ok 1\n${bad}\n`), /^Error: line 2: /, bad);
});

test("files of /proc, by Kata's names", () => {
  const status = "VmPeak:\t     100 kB\nVmRSS:\t 50 kB\nThreads:\t2\nvoluntary_ctxt_switches:\t7\n";
  assert.deepEqual(statusItems(status, 1024), { vmpeak: 102_400, vmrss: 51_200, voluntary_ctxt_switches: 7 });
  assert.deepEqual(statusItems(status, 1), { vmpeak: 100, vmrss: 50, voluntary_ctxt_switches: 7 });
  assert.deepEqual(meminfoItems("MemTotal:  10 kB\nActive(anon): 1 kB\nHugePages_Total: 3\nBounce: 0 kB\n"), {
    mem_total: 10_240,
    active_anon: 1024,
    hugepages_total: 3,
    bounce: 0,
  });
  const net = "Inter-|   Receive\n face |bytes\n  eth0: 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16\n";
  const samples = netdevSamples(net);
  assert.deepEqual(samples[0], { labels: { interface: "eth0", item: "recv_bytes" }, value: 1 });
  assert.deepEqual(samples.at(-1), { labels: { interface: "eth0", item: "sent_compressed" }, value: 16 });
  const cpu = cpuSamples("cpu  10 0 3 4 5 6 7 8 9 10\ncpu0 1 2 3\nintr 5\n");
  assert.deepEqual(cpu[0], { labels: { cpu: "total", item: "user" }, value: 100 });
  assert.deepEqual(cpu[10], { labels: { cpu: "0", item: "user" }, value: 10 });
  const disk = diskSamples(" 254 0 vda 1 2 3 4 5 6 7 8 9 10 11\n");
  assert.deepEqual([disk.length, disk[2]], [11, { labels: { disk: "vda", item: "sectors_read" }, value: 3 }]);
});

test("processes are summed up, and those that have gone count for nothing", async () => {
  const [one, two] = await Promise.all([
    processFamilies("shim", [process.pid]),
    processFamilies("shim", [process.pid, process.pid, 0x3fffffff]),
  ]);
  const value = (all: readonly Family[], name: string): number =>
    all.find((family) => family.name === name)?.samples[0]?.value ?? 0;
  assert.ok(value(one, "kata_shim_threads") > 0);
  assert.ok(value(two, "kata_shim_fds") > value(one, "kata_shim_fds"));
  for (const family of one) assert.ok(family.name in FAMILIES, family.name);
  assert.ok(
    one.find(({ name }) => name === "kata_shim_io_stat")?.samples.some(({ labels }) => labels["item"] === "readbytes"),
  );
  assert.deepEqual(await processFamilies("hypervisor", [0x3fffffff]), []);
});

test("durations have Kata's buckets; a pod's overhead is what its containers do not use", () => {
  const durations = new Durations("action");
  durations.observe(3, "create");
  durations.observe(2000, "create");
  const found = (suffix: string, le?: string): number | undefined =>
    durations.samples().find((sample) => sample.suffix === suffix && sample.labels["le"] === le)?.value;
  assert.deepEqual(
    [found("_bucket", "2"), found("_bucket", "4"), found("_bucket", "512"), found("_bucket", "+Inf"), found("_count")],
    [0, 1, 1, 2, 2],
  );
  const overhead = new Overhead();
  const usage = (cpu: bigint, memory: bigint) => ({ cpuNs: cpu, memoryBytes: memory });
  const first = overhead.families({ node: usage(0n, 300n), guest: usage(0n, 100n) }, 1000);
  assert.deepEqual(
    first.map(({ name, samples }) => [name, samples[0]?.value]),
    [["kata_shim_pod_overhead_memory_in_bytes", 200]],
  );
  const [cpu] = overhead.families({ node: usage(800_000_000n, 300n), guest: usage(300_000_000n, 100n) }, 2000);
  assert.deepEqual([cpu?.name, cpu?.samples[0]?.value], ["kata_shim_pod_overhead_cpu", 50]);
});
