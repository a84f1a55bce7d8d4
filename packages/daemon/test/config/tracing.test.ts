import assert from "node:assert/strict";
import { join } from "node:path";
import { test, type TestContext } from "node:test";
import { EMPTY, readDocument, settingsOf } from "@berth/daemon";
import { filesOf } from "./files.ts";

type Tracing = ReturnType<typeof settingsOf>["settings"]["tracing"];

/** What the file and the environment's OTEL_ variables make of it. */
async function tracingFrom(t: TestContext, environment: Record<string, string>, text?: string): Promise<Tracing> {
  const document =
    text === undefined ? EMPTY : await readDocument(join(filesOf(t, { "config.toml": text }), "config.toml"));
  return settingsOf(document, {}, "/bosun", environment).settings.tracing;
}

const file = (otlp: string, tracing = ""): string => `version = 3
[plugins.'io.containerd.tracing.processor.v1.otlp']
${otlp}
[plugins.'io.containerd.internal.v1.tracing']
${tracing}
`;
const ENDPOINT = "OTEL_EXPORTER_OTLP_ENDPOINT";

test("nothing is traced where no endpoint is named, or the environment switches it off", async (t) => {
  assert.equal(await tracingFrom(t, {}), undefined);
  assert.equal(await tracingFrom(t, { OTEL_SERVICE_NAME: "a", OTEL_TRACES_SAMPLER: "always_on" }), undefined);
  assert.equal(await tracingFrom(t, { [ENDPOINT]: " " }), undefined);
  assert.equal(await tracingFrom(t, { [ENDPOINT]: "http://c:4318", OTEL_SDK_DISABLED: "true" }), undefined);
  assert.equal(await tracingFrom(t, { [ENDPOINT]: "http://c:4318", OTEL_TRACES_EXPORTER: "none" }), undefined);
  assert.equal(await tracingFrom(t, { OTEL_SDK_DISABLED: "1" }, file("endpoint = 'http://c:4318'")), undefined);
});

test("the environment as containerd 2 reads it", async (t) => {
  const plain = await tracingFrom(t, { [ENDPOINT]: "http://c:4318" });
  assert.deepEqual(plain, {
    protocol: "http/protobuf",
    url: undefined,
    serviceName: "berthd",
    sampler: { ratio: 1, parentBased: true },
    batch: {},
  });
  const all = await tracingFrom(t, {
    OTEL_EXPORTER_OTLP_TRACES_ENDPOINT: "https://c:4317",
    OTEL_EXPORTER_OTLP_PROTOCOL: "http/protobuf",
    OTEL_EXPORTER_OTLP_TRACES_PROTOCOL: "grpc",
    OTEL_SERVICE_NAME: "node",
    OTEL_TRACES_SAMPLER: "traceidratio",
    OTEL_TRACES_SAMPLER_ARG: "0.25",
    OTEL_BSP_MAX_QUEUE_SIZE: "100",
  });
  assert.deepEqual(
    [all?.protocol, all?.serviceName, all?.sampler],
    ["grpc", undefined, { ratio: 0.25, parentBased: false }],
  );
  assert.deepEqual(all?.batch, { maxQueueSize: 100 });
  const attributes = await tracingFrom(t, { [ENDPOINT]: "http://c", OTEL_RESOURCE_ATTRIBUTES: "a=b,service.name=x" });
  assert.equal(attributes?.serviceName, undefined);
  for (const [name, ratio] of [
    ["parentbased_always_on", 1],
    ["parentbased_always_off", 0],
  ] as const)
    assert.deepEqual((await tracingFrom(t, { [ENDPOINT]: "http://c", OTEL_TRACES_SAMPLER: name }))?.sampler, {
      ratio,
      parentBased: true,
    });
});

test("containerd 1's keys of the file, below the environment", async (t) => {
  const http = file("endpoint = 'http://c:4318'", "service_name = 'node'\nsampling_ratio = 0.5");
  const settings = await tracingFrom(t, {}, http);
  assert.equal(settings?.url, "http://c:4318/v1/traces");
  assert.deepEqual([settings?.serviceName, settings?.sampler.ratio], ["node", 0.5]);
  assert.equal((await tracingFrom(t, { [ENDPOINT]: "http://other:4318" }, http))?.url, undefined);
  assert.equal((await tracingFrom(t, { OTEL_SERVICE_NAME: "x" }, http))?.serviceName, undefined);
  const grpc = "endpoint = 'c:4317'\nprotocol = 'grpc'";
  assert.equal((await tracingFrom(t, {}, file(grpc)))?.url, "https://c:4317");
  assert.equal((await tracingFrom(t, {}, file(`${grpc}\ninsecure = true`)))?.url, "http://c:4317");
  const two = `version = 2\n[plugins."io.containerd.tracing.processor.v1.otlp"]\nendpoint = "http://c:4318"\n`;
  assert.equal((await tracingFrom(t, {}, two))?.url, "http://c:4318/v1/traces");
  const one = `[plugins.otlp]\nendpoint = "http://c:4318"\n`;
  assert.equal((await tracingFrom(t, {}, one))?.url, "http://c:4318/v1/traces");
});

test("what is wrong is named", async (t) => {
  const wrong: [Record<string, string>, string | undefined, RegExp][] = [
    [{ [ENDPOINT]: "http://c", OTEL_SDK_DISABLED: "maybe" }, undefined, /OTEL_SDK_DISABLED: "maybe"/],
    [{ [ENDPOINT]: "http://c", OTEL_TRACES_EXPORTER: "zipkin" }, undefined, /OTEL_TRACES_EXPORTER: "zipkin"/],
    [{ [ENDPOINT]: "http://c", OTEL_EXPORTER_OTLP_PROTOCOL: "http/json" }, undefined, /"http\/json" is none of/],
    [
      { [ENDPOINT]: "http://c", OTEL_TRACES_SAMPLER: "jaeger_remote" },
      undefined,
      /OTEL_TRACES_SAMPLER: "jaeger_remote"/,
    ],
    [
      { [ENDPOINT]: "http://c", OTEL_TRACES_SAMPLER: "traceidratio", OTEL_TRACES_SAMPLER_ARG: "2" },
      undefined,
      /SAMPLER_ARG: 2/,
    ],
    [{ [ENDPOINT]: "http://c", OTEL_BSP_EXPORT_TIMEOUT: "5s" }, undefined, /OTEL_BSP_EXPORT_TIMEOUT: "5s"/],
    [{}, file("endpoint = 'c:4318'"), /config\.toml:3: .*endpoint: "c:4318" is not a URL/],
    [{}, file("endpoint = 'http://c'\nprotocol = 'udp'"), /config\.toml:4: .*protocol: "udp"/],
    [{}, file("endpoint = 'http://c'", "sampling_ratio = 3"), /config\.toml:5: .*sampling_ratio: 3/],
    [{}, file("endpoint = 'http://c'", "sampling_ratio = '1'"), /must be a number/],
  ];
  for (const [environment, text, message] of wrong) await assert.rejects(tracingFrom(t, environment, text), message);
});
