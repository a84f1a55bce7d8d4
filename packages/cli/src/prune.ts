/** What prune commands take away: docker's filters, and the images of `berth image prune` and `berth system prune`. */
import type { Client } from "./client.ts";
import { Failure } from "./failure.ts";
import { hasLabel } from "./filters.ts";
import type { Session } from "./session.ts";
import { printLine } from "./shell.ts";
import { humanSize, parseMoment } from "./units.ts";

/** Only what is all of this. */
export interface PruneFilter {
  /** Nanoseconds since the epoch, before which it was made; 0n: at any time. */
  readonly until: bigint;
  /** "key" or "key=value", all of them. */
  readonly labels: readonly string[];
  readonly withoutLabels: readonly string[];
  /** Undefined: not said. */
  readonly dangling: boolean | undefined;
}

export const FILTER_HELP = "only what is so: until=24h or a time, label=KEY[=VALUE], label!=KEY[=VALUE]";

/** `dangling`: whether that may be asked for too. Throws Failure. */
export function parsePruneFilter(texts: readonly string[], now: number, { dangling = false } = {}): PruneFilter {
  const values = { until: [] as string[], label: [] as string[], "label!": [] as string[], dangling: [] as string[] };
  for (const text of texts) {
    const [, key = "", value = ""] = /^(until|label!|label|dangling)=(.+)$/s.exec(text) ?? [];
    if (key === "" || (key === "dangling" && !dangling))
      throw new Failure(
        `--filter "${text}": use until=…, label=…${dangling ? ", label!=… or dangling=…" : " or label!=…"}`,
      );
    values[key as keyof typeof values].push(value);
  }
  const [until, second] = values.until;
  if (second !== undefined) throw new Failure("--filter until=… can be given once only");
  const [isDangling] = values.dangling;
  if (isDangling !== undefined && !/^(true|false|1|0)$/.test(isDangling))
    throw new Failure(`--filter dangling=${isDangling}: use true or false`);
  return {
    until: until === undefined ? 0n : BigInt(Math.round(parseMoment(until, "--filter until", now))) * 1_000_000n,
    labels: values.label,
    withoutLabels: values["label!"],
    dangling: isDangling === undefined ? undefined : /^(true|1)$/.test(isDangling),
  };
}

export function isMeant(
  { createdAt, labels }: { readonly createdAt: bigint; readonly labels: Readonly<Record<string, string>> },
  filter: PruneFilter,
): boolean {
  return (
    (filter.until === 0n || createdAt < filter.until) &&
    filter.labels.every((label) => hasLabel(labels, label)) &&
    !filter.withoutLabels.some((label) => hasLabel(labels, label))
  );
}

/** `all`: also images that have a name. */
export async function pruneImages(client: Client, session: Session, all: boolean, filter: PruneFilter): Promise<void> {
  const { until, labels, withoutLabels, dangling } = filter;
  const { images, reclaimedBytes } = await client.berth.pruneImages({
    all: dangling === undefined ? all : !dangling,
    until,
    labels: [...labels],
    withoutLabels: [...withoutLabels],
  });
  for (const { id, references } of images) printLine(session.shell, `removed image ${references[0] ?? id}`);
  printLine(session.shell, `freed ${humanSize(reclaimedBytes)} of images`);
}
