/** What an operator looks at: metrics, the trace of a pod's start, events, processes. */
import assert from "node:assert/strict";
import { spawn } from "node:child_process";
import { after, before, test } from "node:test";
import { claimPort } from "./support/claims.ts";
import { checkout, IMAGE, run, TestDaemon } from "./support/daemon.ts";
import { runPod, startContainer } from "./support/pods.ts";

let daemon: TestDaemon;
let port = 0;
before(async () => {
  port = await claimPort();
  const config = `version = 2\n[metrics]\naddress = "127.0.0.1:${port}"\n`;
  daemon = await TestDaemon.start({ config });
});
after(() => daemon[Symbol.asyncDispose]());

const berth = (...args: string[]): Promise<string> =>
  run([`${checkout}/bin/berth`, "--address", daemon.socket, ...args]);
const metric = (text: string, pattern: string): number =>
  Number(new RegExp(`^${pattern} (\\S+)$`, "m").exec(text)?.[1] ?? Number.NaN);

test("metrics: latency of every call and stage, in Prometheus' format", async () => {
  const pod = await runPod(daemon);
  await startContainer(daemon, pod, "sleep 1000");
  await assert.rejects(daemon.client.runtime.containerStatus({ containerId: "nothing" }), /not found/);
  const response = await fetch(`http://127.0.0.1:${port}/v1/metrics`);
  assert.equal(response.headers.get("content-type"), "text/plain; version=0.0.4; charset=utf-8");
  const text = await response.text();
  for (const line of text.trim().split("\n"))
    assert.match(line, /^(# (HELP|TYPE) \w+ .+|\w+(\{(\w+="[^"]*",?)+\})? -?[\d.e+-]+)$/, line);
  assert.equal(metric(text, 'berth_rpc_duration_seconds_count{method="RunPodSandbox",code="OK"}'), 1);
  assert.equal(metric(text, 'berth_rpc_duration_seconds_count{method="ContainerStatus",code="NOT_FOUND"}'), 1);
  const stage = 'operation="RunPodSandbox",stage="make the namespaces"';
  assert.equal(metric(text, `berth_stage_duration_seconds_count{${stage}}`), 1);
  assert.equal(metric(text, `berth_stage_duration_seconds_bucket{${stage},le="\\+Inf"}`), 1);
  assert.ok(metric(text, `berth_stage_duration_seconds_sum{${stage}}`) > 0);
  const plugin = `network="${daemon.bridge}",plugin="bridge",command="ADD",outcome="ok"`;
  assert.equal(metric(text, `berth_cni_duration_seconds_count{${plugin}}`), 1);
  assert.equal(metric(text, 'berth_containers{state="running"}'), 1);
  assert.ok(metric(text, "process_resident_memory_bytes") > 10e6);
  assert.equal((await fetch(`http://127.0.0.1:${port}/healthz`)).status, 200);
  assert.equal((await fetch(`http://127.0.0.1:${port}/other`)).status, 404);
});

test("trace: the waterfall of a pod's start, with stages, containers and CNI plugins", async () => {
  const name = `traced-${process.pid}`;
  const pod = await runPod(daemon, { metadata: { name, namespace: "test", uid: "u", attempt: 0 } });
  await startContainer(daemon, pod, "sleep 1000", { metadata: { name: "main", attempt: 0 } });
  const text = await berth("trace", name);
  const order = [
    "RunPodSandbox",
    "  make the namespaces",
    "ADD bridge",
    "ADD portmap",
    "CreateContainer (main)",
    "StartContainer (main)",
  ];
  const at = order.map((label) => text.indexOf(label));
  assert.deepEqual(
    [...at].sort((a, b) => a - b),
    at,
    text,
  );
  assert.ok(!at.includes(-1), text);
  assert.match(text, /^ +0\.0 ms +[\d.]+ ms │━+ +│ RunPodSandbox$/m);
  const spans = JSON.parse(await berth("trace", "--json", pod.id)) as {
    startedAt: string;
    finishedAt: string;
    error: string;
  }[];
  assert.ok(spans.length >= 10);
  for (const span of spans) {
    assert.ok(BigInt(span.finishedAt) >= BigInt(span.startedAt));
    assert.equal(span.error, "");
  }
});

test("trace: a stage that failed says why, also when the pod is gone", async () => {
  const pod = await runPod(daemon);
  const create = daemon.client.runtime.createContainer({
    podSandboxId: pod.id,
    config: {
      metadata: { name: "bad", attempt: 0 },
      image: { image: IMAGE },
      command: ["true"],
      workingDir: "relative",
    },
    sandboxConfig: pod.config,
  });
  await assert.rejects(create);
  await daemon.client.runtime.removePodSandbox({ podSandboxId: pod.id });
  assert.match(await berth("trace", pod.id), /CreateContainer.*failed: /);
  await assert.rejects(berth("trace", "f".repeat(64)), /not found/);
});

test("events: a line for each, until it is interrupted", async () => {
  const child = spawn(`${checkout}/bin/berth`, ["--address", daemon.socket, "events"], {
    stdio: ["ignore", "pipe", "inherit"],
  });
  let output = "";
  const { promise, resolve } = Promise.withResolvers<void>();
  child.stdout.on("data", (chunk: Buffer) => {
    output += chunk.toString();
    if (/stop .*name=ended/.test(output)) resolve();
  });
  const pod = await runPod(daemon);
  await startContainer(daemon, pod, "exit 3", { metadata: { name: "ended", attempt: 0 } });
  await promise;
  const code = new Promise((done) => child.once("exit", done));
  child.kill("SIGINT");
  assert.equal(await code, 0);
  assert.match(output, /Z container create [0-9a-f]{12} \(name=ended, pod=pod-\d+\)/);
  assert.match(output, /Z container stop [0-9a-f]{12} \(name=ended, pod=pod-\d+, exitCode=3, reason=Error\)/);
});

test("top: a container's processes", async () => {
  const pod = await runPod(daemon);
  const id = await startContainer(daemon, pod, "sleep 1234 & sleep 1235");
  assert.match(
    await berth("top", id),
    /^UID +PID +PPID +TIME +CMD\n(0 +\d+ +\d+ +00:00:00 +.*\n)*0 +\d+ +\d+ +00:00:00 +sleep 123[45]\n/,
  );
});
