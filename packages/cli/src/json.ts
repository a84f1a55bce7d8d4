/** What scripts read: one JSON document on stdout. */
import { Failure } from "./failure.ts";
import { printLine, type Shell } from "./shell.ts";
import { rfc3339 } from "./units.ts";

export const printJson = (shell: Shell, value: unknown): void => printLine(shell, JSON.stringify(value, undefined, 2));

export interface JsonOptions {
  readonly json?: boolean;
  readonly format?: string;
}

/** --json, or docker's spelling of it; its other formats are refused by name. */
export function wantsJson({ json, format }: JsonOptions): boolean {
  if (format === undefined || format === "table") return json === true;
  if (format === "json" || format === "{{json .}}") return true;
  throw new Failure(
    `--format "${format}" is not supported: berth has no templates; use --json, and jq to pick from it`,
  );
}

const TIMES = new Set(["createdAt", "startedAt", "finishedAt", "timestamp"]);
/** Maps with keys of their users' choice. */
const FREE_MAPS = new Set(["labels", "annotations"]);

/** A CRI message's JSON form with its times (nanoseconds in a string; 0: not set) in RFC 3339 or null, as crictl shows them. */
export function readableTimes(value: unknown): unknown {
  if (Array.isArray(value)) return value.map((item) => readableTimes(item));
  if (typeof value !== "object" || value === null) return value;
  const entries = Object.entries(value).map(([key, item]) => {
    if (FREE_MAPS.has(key)) return [key, item];
    const time = TIMES.has(key) && typeof item === "string" && /^\d+$/.test(item);
    return [key, time ? (rfc3339(BigInt(item)) ?? null) : readableTimes(item)];
  });
  return Object.fromEntries(entries);
}
