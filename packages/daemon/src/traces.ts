/** OpenTelemetry's SDK, loaded and started when traces are configured, and only then. */
import type { Log } from "@berth/cri";
import type { Tracing } from "@berth/cri/tracing";
import type { ExportResultCode } from "@opentelemetry/core";
import type { SpanExporter } from "@opentelemetry/sdk-trace";
import type { TracingSettings } from "./config/tracing.ts";

export interface Traces extends AsyncDisposable {
  readonly tracing: Tracing;
}

/** What a collector that does not answer may take of berthd's stop. */
const LAST_EXPORT_MS = 2_000;

export async function openTraces(settings: TracingSettings, version: string, log: Log): Promise<Traces> {
  const [{ Tracing }, core, sdk, resources] = await Promise.all([
    import("@berth/cri/tracing"),
    import("@opentelemetry/core"),
    import("@opentelemetry/sdk-trace"),
    import("@opentelemetry/resources"),
  ]);
  core.setGlobalErrorHandler((error) => log.debug({ err: error }, "OpenTelemetry"));
  const { ratio, parentBased } = settings.sampler;
  const root = ratio === 1 ? new sdk.AlwaysOnSampler() : new sdk.TraceIdRatioBasedSampler(ratio);
  const own = {
    "service.version": version,
    ...(settings.serviceName !== undefined && { "service.name": settings.serviceName }),
  };
  const detected = resources.detectResources({ detectors: [resources.hostDetector, resources.envDetector] });
  const exporter = telling(await exporterOf(settings), log, core.ExportResultCode.FAILED);
  const provider = new sdk.TracerProvider({
    sampler: parentBased ? new sdk.ParentBasedSampler({ root }) : root,
    resource: resources.defaultResource().merge(detected).merge(resources.resourceFromAttributes(own)),
    spanProcessors: [new sdk.BatchSpanProcessor({ exporter, ...settings.batch })],
  });
  log.info({ protocol: settings.protocol, url: settings.url }, "traces are sent by OTLP");
  return {
    tracing: new Tracing(provider.getTracer("berth", version), new core.W3CTraceContextPropagator()),
    async [Symbol.asyncDispose]() {
      const { promise, resolve } = Promise.withResolvers<void>();
      const timer = setTimeout(resolve, LAST_EXPORT_MS);
      // What could not be sent was said when it was tried.
      await Promise.race([
        provider.shutdown().catch((error: unknown) => log.debug({ err: error }, "OpenTelemetry")),
        promise,
      ]);
      clearTimeout(timer);
    },
  };
}

async function exporterOf({ protocol, url }: TracingSettings): Promise<SpanExporter> {
  const { OTLPTraceExporter } =
    protocol === "grpc"
      ? await import("@opentelemetry/exporter-trace-otlp-grpc")
      : await import("@opentelemetry/exporter-trace-otlp-proto");
  return new OTLPTraceExporter(url === undefined ? {} : { url });
}

/** Says once that spans are lost, and once that they arrive again: a collector may be away for hours. */
function telling(exporter: SpanExporter, log: Log, failure: ExportResultCode): SpanExporter {
  let failing = false;
  return {
    export: (spans, done) =>
      exporter.export(spans, (result) => {
        const failed = result.code === failure;
        if (failed && !failing)
          log.warn(
            { err: result.error },
            `traces cannot be sent and are dropped: ${result.error?.message ?? "no reason given"}`,
          );
        if (!failed && failing) log.info({}, "traces are sent again");
        failing = failed;
        done(result);
      }),
    forceFlush: async () => await exporter.forceFlush?.(),
    shutdown: () => exporter.shutdown(),
  };
}
