/**
 * Where OpenTelemetry traces go: what containerd 2.x reads of the environment (OTEL_*; the OpenTelemetry specification names
 * them), else what containerd 1.x reads of its file.
 */
import { at } from "./handlers.ts";
import { OTLP, TRACING } from "./keys.ts";
import type { Reader } from "./reader.ts";

export interface TracingSettings {
  readonly protocol: "http/protobuf" | "grpc";
  /** Undefined: the environment names it, with what else exporters read there (headers, certificates, compression, time-out). */
  readonly url: string | undefined;
  /** Undefined: OTEL_SERVICE_NAME or OTEL_RESOURCE_ATTRIBUTES say it. */
  readonly serviceName: string | undefined;
  readonly sampler: Sampler;
  readonly batch: {
    readonly scheduledDelayMillis?: number;
    readonly exportTimeoutMillis?: number;
    readonly maxQueueSize?: number;
    readonly maxExportBatchSize?: number;
  };
}

export interface Sampler {
  /** Of traces that begin here: 0 none, 1 all. */
  readonly ratio: number;
  /** Whether the caller's decision counts for its traces. */
  readonly parentBased: boolean;
}

type Environment = Readonly<Record<string, string | undefined>>;
const DEFAULT_SERVICE = "berthd";

/** Undefined: nothing asks for traces. Throws ConfigError for the file's values, Error for the environment's. */
export function tracingOf(file: Reader, environment: Environment): TracingSettings | undefined {
  const said = (name: string): string | undefined => environment[name]?.trim() || undefined;
  const disabled = said("OTEL_SDK_DISABLED");
  if (disabled !== undefined && truth("OTEL_SDK_DISABLED", disabled)) return undefined;
  const otlp = file.below("plugins", OTLP);
  const named = said("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT") ?? said("OTEL_EXPORTER_OTLP_ENDPOINT");
  const endpoint = otlp.string("endpoint");
  if (named === undefined && endpoint === undefined) return undefined;
  const exporter = said("OTEL_TRACES_EXPORTER") ?? "otlp";
  if (exporter === "none") return undefined;
  if (exporter !== "otlp") throw new Error(`OTEL_TRACES_EXPORTER: "${exporter}" is none of otlp, none`);
  const protocol = protocolOf(otlp, said);
  return {
    protocol,
    url: named === undefined && endpoint !== undefined ? urlOf(otlp, endpoint, protocol) : undefined,
    serviceName: serviceOf(file, said),
    sampler: samplerOf(file, said),
    batch: batchOf(said),
  };
}

type Said = (name: string) => string | undefined;

function protocolOf(otlp: Reader, said: Said): TracingSettings["protocol"] {
  const name = "OTEL_EXPORTER_OTLP_TRACES_PROTOCOL";
  const given = said(name) ?? said("OTEL_EXPORTER_OTLP_PROTOCOL");
  const protocol = given ?? otlp.string("protocol") ?? "http/protobuf";
  if (protocol === "http/protobuf" || protocol === "grpc") return protocol;
  const why = `"${protocol}" is none of http/protobuf, grpc`;
  throw given === undefined ? at(otlp.entry("protocol"), `protocol: ${why}`) : new Error(`${name}: ${why}`);
}

/** containerd 1.x's rules: gRPC has host and port, and `insecure`; HTTP a URL, whose scheme says whether there is TLS. */
function urlOf(otlp: Reader, endpoint: string, protocol: TracingSettings["protocol"]): string {
  if (protocol === "grpc")
    return `${otlp.bool("insecure") === true ? "http" : "https"}://${endpoint.replace(/^https?:\/\//, "")}`;
  const url = URL.parse(endpoint);
  if (url?.protocol !== "http:" && url?.protocol !== "https:")
    throw at(otlp.entry("endpoint"), `endpoint: "${endpoint}" is not a URL; write http://HOST:4318, say`);
  return `${url.origin}/v1/traces`;
}

function serviceOf(file: Reader, said: Said): string | undefined {
  if (said("OTEL_SERVICE_NAME") !== undefined) return undefined;
  const attributes = said("OTEL_RESOURCE_ATTRIBUTES") ?? "";
  if (attributes.split(",").some((pair) => pair.trim().startsWith("service.name="))) return undefined;
  return file.string("plugins", TRACING, "service_name") ?? DEFAULT_SERVICE;
}

function samplerOf(file: Reader, said: Said): Sampler {
  const name = said("OTEL_TRACES_SAMPLER");
  if (name === undefined) {
    const ratio = file.number("plugins", TRACING, "sampling_ratio") ?? 1;
    if (!(ratio >= 0 && ratio <= 1))
      throw at(file.entry("plugins", TRACING, "sampling_ratio"), `sampling_ratio: ${ratio} is not within 0 and 1`);
    return { ratio, parentBased: true };
  }
  const parentBased = name.startsWith("parentbased_");
  switch (parentBased ? name.slice("parentbased_".length) : name) {
    case "always_on":
      return { ratio: 1, parentBased };
    case "always_off":
      return { ratio: 0, parentBased };
    case "traceidratio": {
      const ratio = Number(said("OTEL_TRACES_SAMPLER_ARG") ?? 1);
      if (!(ratio >= 0 && ratio <= 1)) throw new Error(`OTEL_TRACES_SAMPLER_ARG: ${ratio} is not within 0 and 1`);
      return { ratio, parentBased };
    }
    default:
      throw new Error(
        `OTEL_TRACES_SAMPLER: "${name}" is none of always_on, always_off, traceidratio, and these after parentbased_`,
      );
  }
}

/** As the specification of the batch processor has them: milliseconds, and spans. */
function batchOf(said: Said): TracingSettings["batch"] {
  const number = (name: string): number | undefined => {
    const text = said(name);
    if (text === undefined) return undefined;
    if (!/^\d+$/.test(text)) throw new Error(`${name}: "${text}" is not a whole number`);
    return Number(text);
  };
  const batch = {
    scheduledDelayMillis: number("OTEL_BSP_SCHEDULE_DELAY"),
    exportTimeoutMillis: number("OTEL_BSP_EXPORT_TIMEOUT"),
    maxQueueSize: number("OTEL_BSP_MAX_QUEUE_SIZE"),
    maxExportBatchSize: number("OTEL_BSP_MAX_EXPORT_BATCH_SIZE"),
  };
  return Object.fromEntries(Object.entries(batch).filter(([, value]) => value !== undefined));
}

/** Go's strconv.ParseBool, which containerd reads the variable with. */
function truth(name: string, text: string): boolean {
  if (/^(1|t|T|TRUE|true|True)$/.test(text)) return true;
  if (/^(0|f|F|FALSE|false|False)$/.test(text)) return false;
  throw new Error(`${name}: "${text}" is none of true, false`);
}
