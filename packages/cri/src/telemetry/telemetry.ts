/** How long things take: every call, every stage of what pods are made by, every CNI plugin; as histograms, and span by span for each pod. */
import { type Metadata, status } from "@grpc/grpc-js";
import { instant } from "../clock.ts";
import { Histogram } from "./metrics.ts";
import type { Tracing } from "./tracing.ts";

/** A stretch of a pod's life in which something was done for it. */
export interface Span {
  /** As in "RunPodSandbox". */
  readonly operation: string;
  /** Of the operation; "": the whole of it. */
  readonly step: string;
  /** "": the pod's own. */
  readonly container: string;
  /** Nanoseconds since the epoch. */
  readonly startedAt: bigint;
  readonly finishedAt: bigint;
  /** "": it went well. */
  readonly error: string;
}

/** Pods whose spans are kept, and spans of each: bounds on memory. */
const MOST_PODS = 500;
const MOST_SPANS = 400;
const SECOND = 1e9;

/** What begins: a step of an operation; "" is the operation itself. */
export interface Stage {
  /** "": none that is known. */
  readonly pod: string;
  /** "": the pod's own. */
  readonly container: string;
  readonly operation: string;
  readonly step: string;
}

/** With an error, or well. */
export type Ended = (error?: unknown) => void;

/** Of one call. */
export interface CallWatch {
  /** Runs its handler. */
  run<T>(work: () => T): T;
  /** `details`: of a failure. */
  ended(code: status, details: string): void;
}

export class Telemetry {
  readonly calls = new Histogram(
    "berth_rpc_duration_seconds",
    "Calls of the CRI and of berth's own service, by method and gRPC code.",
  );
  readonly stages = new Histogram(
    "berth_stage_duration_seconds",
    "Stages of the operations that make pods and containers.",
  );
  readonly plugins = new Histogram("berth_cni_duration_seconds", "CNI plugins, by network, plugin and command.");
  readonly #spans = new Map<string, Span[]>();
  readonly #tracing: Tracing | undefined;

  /** `tracing`: where OpenTelemetry is configured. */
  constructor(tracing?: Tracing) {
    this.#tracing = tracing;
  }

  /** A call begins. */
  call(service: string, method: string, metadata: Metadata, request: unknown): CallWatch {
    const startedAt = performance.now();
    const traced = this.#tracing?.call(service, method, metadata, request);
    return {
      run: (work) => (traced ? traced.run(work) : work()),
      ended: (code, details) => {
        this.calls.observe({ method, code: status[code] }, (performance.now() - startedAt) / 1000);
        traced?.ended(code, details);
      },
    };
  }

  plugin(call: PluginCall): void {
    this.#tracing?.plugin(call);
    const { network, plugin, command, containerId, startedAt, error } = call;
    const finishedAt = instant();
    this.plugins.observe(
      { network, plugin, command, outcome: error === undefined ? "ok" : "error" },
      seconds(startedAt, finishedAt),
    );
    if (containerId === undefined) return;
    const step = `${command} ${plugin}`;
    this.#keep(containerId, { operation: "CNI", step, container: "", startedAt, finishedAt, error: messageOf(error) });
  }

  /** A stage begins; what is answered is called when it has ended. */
  stage(stage: Stage): Ended {
    const startedAt = instant();
    const traced = this.#tracing?.stage(stage);
    return (error) => {
      const { pod, ...what } = stage;
      const { operation, step } = what;
      const finishedAt = instant();
      this.stages.observe({ operation, stage: step === "" ? "all" : step }, seconds(startedAt, finishedAt));
      if (pod !== "") this.#keep(pod, { ...what, startedAt, finishedAt, error: messageOf(error) });
      traced?.(error);
    };
  }

  /** A stage that somebody else has told of, in nanoseconds since the epoch. */
  past({ pod, operation, step, container }: Stage, startedAt: bigint, finishedAt: bigint): void {
    this.stages.observe({ operation, stage: step }, seconds(startedAt, finishedAt));
    this.#keep(pod, { operation, step, container, startedAt, finishedAt, error: "" });
    this.#tracing?.past({ pod, operation, step, container }, startedAt, finishedAt);
  }

  /** In the order of their beginning. */
  spansOf(pod: string): Span[] {
    return (this.#spans.get(pod) ?? []).toSorted(
      (a, b) => Number(a.startedAt - b.startedAt) || a.step.length - b.step.length,
    );
  }

  #keep(pod: string, span: Span): void {
    const spans = this.#spans.get(pod) ?? [];
    if (spans.length < MOST_SPANS) spans.push(span);
    this.#spans.set(pod, spans);
    for (const oldest of this.#spans.keys()) {
      if (this.#spans.size <= MOST_PODS) break;
      this.#spans.delete(oldest);
    }
  }
}

export interface PluginCall {
  readonly network: string;
  readonly plugin: string;
  readonly command: string;
  /** Absent for calls about no container. */
  readonly containerId: string | undefined;
  readonly startedAt: bigint;
  readonly error?: unknown;
}

const seconds = (from: bigint, to: bigint): number => Number(to - from) / SECOND;
/** "": it went well. */
export const messageOf = (error: unknown): string =>
  error === undefined ? "" : error instanceof Error ? error.message : JSON.stringify(error);
