import type { Command } from "commander";
import type { berth } from "@berth/spec";
import { shortId } from "../ids.ts";
import { printJson } from "../json.ts";
import { pickPod } from "../names.ts";
import type { Session } from "../session.ts";
import { printLine } from "../shell.ts";
import { printable } from "../table.ts";

const HELP = `
Each line is something that was done for the pod: the CRI's call, its stages, and every CNI plugin; where its bar begins is when, and
how long it is how long it took. A pod that is gone can still be named by its whole id for a while.

--json prints a list of: operation, step, containerId, containerName, startedAt, finishedAt (nanoseconds since the epoch), error.`;

export function define(command: Command, session: Session): void {
  command
    .usage("[options] POD")
    .argument("<pod>", "a name, id, or the beginning of an id")
    .option("--json", "a JSON list, for scripts")
    .addHelpText("after", HELP)
    .action((pod: string, { json }: { json?: boolean }) => trace(session, pod, json === true));
}

async function trace(session: Session, name: string, json: boolean): Promise<void> {
  const client = await session.connect();
  const { items } = await client.runtime.listPodSandbox({});
  const podSandboxId = /^[0-9a-f]{64}$/.test(name) ? name : pickPod(items, name).id;
  const { spans } = await client.berth.trace({ podSandboxId });
  if (json) return printJson(session.shell, spans.map(spanJson));
  for (const line of waterfall(spans, session.shell.stdout.columns ?? 100)) printLine(session.shell, line);
}

type Span = berth.TraceResponse_Span;

const spanJson = ({ operation, step, containerId, containerName, startedAt, finishedAt, error }: Span): object => ({
  operation,
  step,
  containerId,
  containerName,
  startedAt: String(startedAt),
  finishedAt: String(finishedAt),
  error,
});

/** What is around a bar: its frame and the times before it. */
const FRAME = 26;
const LEAST_BAR = 10;
const MOST_LABEL = 52;

/** A gap of which nothing is known, such as a container that ran, is not drawn to scale. */
export function waterfall(spans: readonly Span[], columns: number): string[] {
  const groups = grouped(spans);
  const labels = spans.map(labelOf);
  const label = Math.min(MOST_LABEL, Math.max(0, ...labels.map((text) => text.length)));
  const bar = Math.max(LEAST_BAR, columns - FRAME - label);
  return groups.flatMap((group) => drawn(group, label, bar));
}

/** Spans that overlap or follow each other within a second are one picture. */
function grouped(spans: readonly Span[]): Span[][] {
  const groups: Span[][] = [];
  let end = 0n;
  for (const span of spans) {
    const last = groups.at(-1);
    if (last && span.startedAt <= end + 1_000_000_000n) last.push(span);
    else groups.push([span]);
    if (span.finishedAt > end) end = span.finishedAt;
  }
  return groups;
}

function drawn(group: readonly Span[], label: number, bar: number): string[] {
  const begin = group[0]?.startedAt ?? 0n;
  const whole = Math.max(1, ...group.map(({ finishedAt }) => Number(finishedAt - begin)));
  const at = new Date(Number(begin / 1_000_000n)).toISOString();
  return [
    `${at}, ${milliseconds(whole)} in all`,
    ...group.map((span) => {
      const from = Math.floor((Number(span.startedAt - begin) / whole) * bar);
      const to = Math.max(from + 1, Math.round((Number(span.finishedAt - begin) / whole) * bar));
      const picture = `${" ".repeat(from)}${(span.step === "" ? "━" : "█").repeat(to - from)}`
        .slice(0, bar)
        .padEnd(bar);
      const start = milliseconds(Number(span.startedAt - begin)).padStart(10);
      const took = milliseconds(Number(span.finishedAt - span.startedAt)).padStart(10);
      const failed = span.error === "" ? "" : `  failed: ${printable(span.error)}`;
      return `${start} ${took} │${picture}│ ${labelOf(span).slice(0, label).padEnd(label)}${failed}`.trimEnd();
    }),
  ];
}

function labelOf({ operation, step, containerId, containerName }: Span): string {
  const of = containerId === "" ? "" : ` (${containerName === "" ? shortId(containerId) : containerName})`;
  if (step === "") return printable(`${operation}${of}`);
  return printable(operation === "CNI" ? `    ${step}` : `  ${step}`);
}

const milliseconds = (nanoseconds: number): string =>
  nanoseconds < 1e9 ? `${(nanoseconds / 1e6).toFixed(1)} ms` : `${(nanoseconds / 1e9).toFixed(2)} s`;
