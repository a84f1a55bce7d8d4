/** stats and statsp: what is used, read twice, so that CPU time becomes a share. */
import { setTimeout as sleep } from "node:timers/promises";
import type { cri } from "@berth/spec";
import type { Context } from "./command.ts";
import { CrictlError } from "./errors.ts";
import { bool, int, slice, string } from "./flags.ts";
import { table } from "./go/table.ts";
import { CLEAR } from "./watch.ts";

export const SAMPLE_FLAGS = [
  slice("label", "Filter by key=value label"),
  string("output", "Output format, One of: json|yaml|table", { aliases: ["o"] }),
  int("seconds", "Sample duration for CPU usage in seconds", { aliases: ["s"], value: 1 }),
  bool("watch", "Watch pod resources", { aliases: ["w"] }),
];

interface Sampled {
  readonly attributes?: { readonly id: string } | undefined;
}

interface Sampling<S extends Sampled> {
  readonly list: () => Promise<{ readonly stats: readonly S[] }>;
  /** The one answer, for -o. */
  readonly print: (stats: S[], format: "json" | "yaml") => void;
  readonly header: readonly string[];
  /** Undefined: it is left out. */
  readonly row: (now: S, before: S) => string[] | undefined;
}

const idOf = (sampled: Sampled): string => sampled.attributes?.id ?? "";

export async function sample<S extends Sampled>(context: Context, sampling: Sampling<S>): Promise<void> {
  const read = async (): Promise<S[]> => (await sampling.list()).stats.toSorted((a, b) => (idOf(a) < idOf(b) ? -1 : 1));
  const first = await read();
  const format = context.flags.string("output");
  if (format === "json" || format === "yaml") return sampling.print(first, format);
  await sleep(context.flags.number("seconds") * 1000);
  const before = new Map(first.map((each) => [idOf(each), each]));
  const rows = (await read()).flatMap((now) => {
    const then = before.get(idOf(now));
    // What has come since has nothing to be compared with.
    const row = then && sampling.row(now, then);
    return row ? [row] : [];
  });
  context.shell.stdout.write(CLEAR + table([sampling.header, ...rows]));
}

export function percentage(now: cri.CpuUsage | undefined, before: cri.CpuUsage | undefined): string {
  const used = now?.usageCoreNanoSeconds?.value ?? 0n;
  if (used === 0n) return "0.00";
  const passed = (now?.timestamp ?? 0n) - (before?.timestamp ?? 0n);
  if (passed === 0n) throw new CrictlError("cpu stat is not updated during sample");
  return ((Number(used - (before?.usageCoreNanoSeconds?.value ?? 0n)) / Number(passed)) * 100).toFixed(2);
}
