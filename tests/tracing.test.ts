/** OpenTelemetry traces: a collector of the test's own gets the calls, the stages of a pod's start and the CNI plugins, as spans. */
import assert from "node:assert/strict";
import { mkdtempSync, readdirSync, readFileSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { test } from "node:test";
import { connect } from "@berth/cli";
import { Collector, type ReceivedSpan } from "./support/collector.ts";
import { TestDaemon } from "./support/daemon.ts";
import { runPod, sandboxConfig, startContainer } from "./support/pods.ts";

const RUNTIME = "runtime.v1.RuntimeService";
/** A trace of a kubelet's that is sampled. */
const TRACE = "0af7651916cd43dd8448eb211c80319c";
const CALLER = "b7ad6b7169203331";

const called = (spans: readonly ReceivedSpan[], name: string): ReceivedSpan => {
  const [span, another] = spans.filter((one) => one.name === name);
  assert.ok(span, `no span ${name} among ${spans.map((one) => one.name).join(", ")}`);
  assert.equal(another, undefined, `more than one span ${name}`);
  return span;
};

test("http/protobuf by the environment: calls below the kubelet's span, stages below calls, plugins below stages", async () => {
  const { collector, url } = await Collector.http();
  await using _ = collector;
  await using daemon = await TestDaemon.start({
    env: {
      OTEL_EXPORTER_OTLP_ENDPOINT: url,
      OTEL_EXPORTER_OTLP_HEADERS: "x-tenant=nodes",
      OTEL_SERVICE_NAME: "node-a",
      OTEL_BSP_SCHEDULE_DELAY: "50",
    },
  });
  const headers = { traceparent: `00-${TRACE}-${CALLER}-01` };
  const kubelet = connect(daemon.socket, { headers });
  const config = sandboxConfig(daemon);
  const { podSandboxId } = await kubelet.runtime.runPodSandbox({ config });
  kubelet.close();
  const container = await startContainer(daemon, { id: podSandboxId, config }, "sleep 1000");
  await assert.rejects(daemon.client.runtime.containerStatus({ containerId: "nothing" }), /not found/);

  const spans = await collector.until(`${RUNTIME}/ContainerStatus`);
  const run = called(spans, `${RUNTIME}/RunPodSandbox`);
  assert.deepEqual([run.traceId, run.parent, run.kind, run.status], [TRACE, CALLER, 2, 0]);
  const { "sandbox.id": sandbox, "rpc.system": system, "rpc.grpc.status_code": code } = run.attributes;
  assert.deepEqual([sandbox, system, code], [podSandboxId, "grpc", 0]);
  assert.equal(run.resource["service.name"], "node-a");
  assert.equal(collector.headers["x-tenant"], "nodes");

  const stages = ["make the namespaces", "write the pod's files and attach the network", "record the pod as ready"];
  for (const stage of stages) {
    const span = called(spans, stage);
    assert.deepEqual([span.traceId, span.parent, span.kind], [TRACE, run.spanId, 1], stage);
    assert.ok(span.startedAt >= run.startedAt && span.finishedAt <= run.finishedAt, stage);
  }
  const network = called(spans, stages[1] ?? "");
  for (const plugin of ["bridge", "portmap"]) {
    const span = called(spans, `cni ADD ${plugin}`);
    assert.deepEqual([span.parent, span.attributes["cni.network"]], [network.spanId, daemon.bridge]);
    assert.ok(
      span.startedAt >= network.startedAt && span.finishedAt <= network.finishedAt && span.startedAt < span.finishedAt,
    );
  }
  const start = called(spans, `${RUNTIME}/StartContainer`);
  assert.deepEqual([start.parent, start.attributes["container.id"]], ["", container]);
  assert.notEqual(start.traceId, TRACE);
  assert.equal(called(spans, "release the process").parent, start.spanId);
  const missing = called(spans, `${RUNTIME}/ContainerStatus`);
  assert.deepEqual([missing.attributes["rpc.grpc.status_code"], missing.status], [5, 0], "not found is an answer");
});

test("grpc by containerd 1.x's file: its endpoint, insecure, service name and ratio; what is left is sent at the end", async () => {
  const { collector, address } = await Collector.grpc();
  await using _ = collector;
  const config = `version = 2
[plugins."io.containerd.tracing.processor.v1.otlp"]
  endpoint = "${address}"
  protocol = "grpc"
  insecure = true
[plugins."io.containerd.internal.v1.tracing"]
  sampling_ratio = 1.0
  service_name = "node-b"
`;
  {
    await using daemon = await TestDaemon.start({ config });
    await runPod(daemon);
    await daemon.client.runtime.version({});
  }
  const spans = await collector.until("cni DEL bridge", `${RUNTIME}/Version`);
  const run = called(spans, `${RUNTIME}/RunPodSandbox`);
  assert.equal(run.resource["service.name"], "node-b");
  assert.equal(called(spans, "make the namespaces").parent, run.spanId);
});

test("a call that its caller does not sample sends nothing; a collector that is away costs one line of the log", async () => {
  const { collector, url } = await Collector.http();
  const env = { OTEL_EXPORTER_OTLP_ENDPOINT: url, OTEL_BSP_SCHEDULE_DELAY: "50", OTEL_EXPORTER_OTLP_TIMEOUT: "300" };
  await using daemon = await TestDaemon.start({ env });
  const headers = { traceparent: `00-${TRACE}-${CALLER}-00` };
  const kubelet = connect(daemon.socket, { headers });
  await kubelet.runtime.runtimeConfig({});
  kubelet.close();
  await daemon.client.runtime.version({});
  const spans = await collector.until(`${RUNTIME}/Version`);
  assert.ok(!spans.some((span) => span.name === `${RUNTIME}/RuntimeConfig`));
  await collector[Symbol.asyncDispose]();
  const complaint = /traces cannot be sent and are dropped/g;
  while (!complaint.test(daemon.log)) await daemon.client.runtime.version({});
  for (let calls = 0; calls < 50; calls++) await daemon.client.runtime.version({});
  assert.equal(daemon.log.match(complaint)?.length, 1);
  await daemon.kill("SIGTERM");
  assert.match(daemon.log, /berthd has stopped/);
  await daemon.startAgain();
});

test("without a collector OpenTelemetry is not loaded", async () => {
  const coverage = mkdtempSync(`${tmpdir()}/berth-loaded-`);
  try {
    {
      // Node's own list of the scripts that a process has loaded.
      await using daemon = await TestDaemon.start({ env: { NODE_V8_COVERAGE: coverage } });
      await runPod(daemon);
    }
    const loaded = readdirSync(coverage)
      .map((file) => readFileSync(`${coverage}/${file}`, "utf8"))
      .join();
    assert.match(loaded, /packages\/cri\/src\/telemetry\/telemetry\.ts/);
    assert.doesNotMatch(loaded, /opentelemetry/);
  } finally {
    rmSync(coverage, { recursive: true });
  }
});
