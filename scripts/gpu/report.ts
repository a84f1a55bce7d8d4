/** What a try-out saw, in Markdown for docs/gpu.md. */
import { readFileSync } from "node:fs";
import { arch, release } from "node:os";
import type { MachineGpus } from "@berth/gpu/machine";
import type { Outcome } from "./trial.ts";

const FENCE = "```";

export function report(machine: MachineGpus, outcomes: readonly Outcome[], revision: string): string {
  const { driver, cuda, gpus } = machine;
  const counts = Map.groupBy(gpus, ({ name, bytes }) => `${name} (${Math.round(bytes / 2 ** 20)} MiB)`);
  const names = [...counts].map(([name, same]) => (same.length === 1 ? name : `${same.length} × ${name}`));
  const day = new Date().toISOString().slice(0, 10);
  const rows = outcomes.map(
    ({ what, works, summary, ms }) => `| ${what} | ${works ? "" : "**failed:** "}${cell(summary)} | ${ms.toFixed(0)} |`,
  );
  const shown = outcomes.flatMap(({ shown: one }) =>
    one === undefined ? [] : [`$ ${one.command}\n${one.output.trimEnd()}`],
  );
  return [
    `### ${names.join(", ")}, driver ${driver}, CUDA ${cuda}`,
    "",
    `${system()}, Linux ${release()}, ${arch()}; berth ${revision}, ${day}, by \`scripts/try-gpu\`:`,
    "",
    "| what | result | ms |",
    "|---|---|---|",
    ...rows,
    "",
    FENCE,
    shown.join("\n\n"),
    FENCE,
    "",
  ].join("\n");
}

const cell = (text: string): string => text.replaceAll("|", String.raw`\|`).replaceAll(/\s*\n\s*/g, " ");

function system(): string {
  return /^PRETTY_NAME="?([^"\n]*)/m.exec(readFileSync("/etc/os-release", "utf8"))?.[1] ?? "Linux";
}
