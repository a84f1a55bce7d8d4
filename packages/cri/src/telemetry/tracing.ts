/**
 * What Telemetry times, as OpenTelemetry spans: one for each call of the CRI, below the span that its caller names in the
 * metadata (W3C Trace Context, as the kubelet sends it); below it the stages, and below those the CNI plugins. Loaded only where
 * traces are configured.
 */
import { AsyncLocalStorage } from "node:async_hooks";
import { status } from "@grpc/grpc-js";
import type { Metadata } from "@grpc/grpc-js";
import {
  type Attributes,
  type Context,
  ROOT_CONTEXT,
  type Span,
  SpanKind,
  SpanStatusCode,
  type TextMapPropagator,
  type Tracer,
  trace,
} from "@opentelemetry/api";
import { instant } from "../clock.ts";
import { type CallWatch, type Ended, messageOf, type PluginCall, type Stage } from "./telemetry.ts";

/** Codes that are the server's fault; others are answers (OpenTelemetry's conventions for gRPC servers). */
const FAULTS: ReadonlySet<status> = new Set([
  status.UNKNOWN,
  status.DEADLINE_EXCEEDED,
  status.UNIMPLEMENTED,
  status.INTERNAL,
  status.UNAVAILABLE,
  status.DATA_LOSS,
]);

interface Call {
  readonly span: Span;
  readonly context: Context;
  /** Of the stage that goes on. */
  stage: Context | undefined;
}

export class Tracing {
  readonly #tracer: Tracer;
  readonly #propagator: TextMapPropagator;
  readonly #calls = new AsyncLocalStorage<Call>();

  constructor(tracer: Tracer, propagator: TextMapPropagator) {
    this.#tracer = tracer;
    this.#propagator = propagator;
  }

  /** Spans are named as OpenTelemetry's own instrumentation of gRPC names them. */
  call(service: string, method: string, metadata: Metadata, request: unknown): CallWatch {
    const caller = this.#propagator.extract(ROOT_CONTEXT, metadata, METADATA);
    const attributes = { "rpc.system": "grpc", "rpc.service": service, "rpc.method": method, ...subjects(request) };
    const span = this.#tracer.startSpan(
      `${service}/${method}`,
      { kind: SpanKind.SERVER, attributes, startTime: at() },
      caller,
    );
    const call: Call = { span, context: trace.setSpan(caller, span), stage: undefined };
    return {
      run: (work) => this.#calls.run(call, work),
      ended: (code, details) => {
        span.setAttribute("rpc.grpc.status_code", code);
        if (FAULTS.has(code)) span.setStatus({ code: SpanStatusCode.ERROR, message: details });
        span.end(at());
      },
    };
  }

  /** A stage of the call under way; undefined: it is under none. */
  stage({ operation, step, pod, container }: Stage): Ended | undefined {
    const call = this.#calls.getStore();
    if (!call) return undefined;
    const attributes = named({ "sandbox.id": pod, "container.id": container });
    call.span.setAttributes(attributes);
    if (step === "") return (error) => fail(call.span, error);
    const span = this.#tracer.startSpan(
      step,
      { attributes: { ...attributes, "berth.operation": operation }, startTime: at() },
      call.context,
    );
    call.stage = trace.setSpan(call.context, span);
    return (error) => {
      call.stage = undefined;
      fail(span, error);
      span.end(at());
    };
  }

  /** A stage that is over. */
  past({ operation, step, pod, container }: Stage, startedAt: bigint, finishedAt: bigint): void {
    const call = this.#calls.getStore();
    if (!call) return;
    const attributes = {
      ...named({ "sandbox.id": pod, "container.id": container }),
      "berth.operation": operation,
    };
    this.#tracer.startSpan(step, { attributes, startTime: hrTime(startedAt) }, call.context).end(hrTime(finishedAt));
  }

  /** A CNI plugin has ended. */
  plugin({ network, plugin, command, containerId, startedAt, error }: PluginCall): void {
    const call = this.#calls.getStore();
    if (!call) return;
    const attributes = { "cni.network": network, "cni.plugin": plugin, "cni.command": command };
    const span = this.#tracer.startSpan(
      `cni ${command} ${plugin}`,
      { attributes: { ...attributes, ...named({ "sandbox.id": containerId }) }, startTime: hrTime(startedAt) },
      call.stage ?? call.context,
    );
    fail(span, error);
    span.end(at());
  }
}

function fail(span: Span, error: unknown): void {
  if (error === undefined) return;
  const message = messageOf(error);
  span.recordException(error instanceof Error ? error : message);
  span.setStatus({ code: SpanStatusCode.ERROR, message });
}

/** Which pod, container or image a request names; containerd's names of the attributes. */
function subjects(request: unknown): Attributes {
  const { podSandboxId, containerId, image } = (request ?? {}) as Record<string, unknown>;
  const reference = (image as { readonly image?: unknown } | undefined)?.image;
  return named({ "sandbox.id": podSandboxId, "container.id": containerId, "image.ref": reference });
}

const named = (values: Readonly<Record<string, unknown>>): Attributes =>
  Object.fromEntries(
    Object.entries(values).filter(
      (entry): entry is [string, string] => typeof entry[1] === "string" && entry[1] !== "",
    ),
  );

const hrTime = (nanoseconds: bigint): [number, number] => [
  Number(nanoseconds / 1_000_000_000n),
  Number(nanoseconds % 1_000_000_000n),
];

/** To a microsecond: OpenTelemetry's own clock begins spans at whole milliseconds. */
const at = (): [number, number] => hrTime(instant());

const METADATA = {
  get: (metadata: Metadata, key: string): string | undefined => metadata.get(key)[0]?.toString(),
  keys: (metadata: Metadata): string[] => Object.keys(metadata.getMap()),
};
