import type { Command } from "commander";
import type { Client } from "../client.ts";
import { shownId } from "../ids.ts";
import { interruptible } from "../interrupt.ts";
import { type JsonOptions, printJson, wantsJson } from "../json.ts";
import { pickContainer } from "../names.ts";
import type { Session } from "../session.ts";
import { cpuPercent, type Sample, sampleOf } from "../stats.ts";
import { type Column, formatTable } from "../table.ts";
import { humanMemory, humanSize } from "../units.ts";

interface Flags extends JsonOptions {
  readonly stream: boolean;
  readonly trunc: boolean;
}

const HELP = `
On a terminal the table is drawn again every second until Ctrl-C; elsewhere, and with --no-stream, once.
CPU % is of one CPU: two busy CPUs are 200 %. MEM is the working set: what cannot be taken back without swapping.
--json prints once, a list of: id, name, cpuPercent, cpuNanoseconds, memoryWorkingSet, memoryUsage, memoryAvailable,
writableLayer (sizes in bytes; null: not known).`;

export function define(command: Command, session: Session): void {
  command
    .usage("[options] [CONTAINER...]")
    .argument("[container...]", "names, ids, or beginnings of ids; all without any")
    .option("--no-stream", "print once")
    .option("--no-trunc", "whole ids")
    .option("--json", "a JSON list, for scripts")
    .option("--format <format>", "json or table")
    .addHelpText("after", HELP)
    .action((names: string[], flags: Flags) => stats(session, names, flags));
}

/** Milliseconds between two looks. */
const INTERVAL = 1000;

async function stats(session: Session, names: readonly string[], flags: Flags): Promise<void> {
  const { shell } = session;
  const json = wantsJson(flags);
  const live = flags.stream && !json && shell.stdout.isTTY === true;
  const client = await session.connect();
  using interrupt = interruptible(shell);
  let before = await look(client, names);
  for (;;) {
    await sleep(INTERVAL, interrupt.signal);
    if (interrupt.signal.aborted) return;
    const now = await look(client, names);
    const earlier = new Map(before.map((sample) => [sample.id, sample]));
    const rows = now.map((sample) => ({ sample, cpu: cpuPercent(sample, earlier.get(sample.id)) }));
    if (json) return printJson(shell, rows.map(rowJson));
    shell.stdout.write(`${live ? CLEAR_SCREEN : ""}${formatTable(columns(!flags.trunc), rows)}`);
    if (!live) return;
    before = now;
  }
}

const CLEAR_SCREEN = "\u001b[H\u001b[2J";

async function sleep(milliseconds: number, signal: AbortSignal): Promise<void> {
  const { promise, resolve } = Promise.withResolvers<void>();
  const timer = setTimeout(resolve, milliseconds);
  signal.addEventListener("abort", () => resolve(), { once: true });
  await promise;
  clearTimeout(timer);
}

/** Newest answer for the containers that are named, or all; sorted by name. */
async function look(client: Client, names: readonly string[]): Promise<Sample[]> {
  const ids = names.length === 0 ? undefined : await idsOf(client, names);
  const { stats: all } = await client.runtime.listContainerStats({});
  return all
    .map(sampleOf)
    .filter(({ id }) => !ids || ids.has(id))
    .toSorted((a, b) => a.name.localeCompare(b.name));
}

async function idsOf(client: Client, names: readonly string[]): Promise<ReadonlySet<string>> {
  const { containers } = await client.runtime.listContainers({});
  return new Set(names.map((name) => pickContainer(containers, name).id));
}

interface Row {
  readonly sample: Sample;
  readonly cpu: number | null;
}

const UNKNOWN = "--";
const memory = (bytes: bigint | null): string => (bytes === null ? UNKNOWN : humanMemory(bytes));

function columns(full: boolean): Column<Row>[] {
  return [
    { title: "CONTAINER ID", value: ({ sample }) => shownId(sample.id, full) },
    { title: "NAME", value: ({ sample }) => sample.name },
    { title: "CPU %", value: ({ cpu }) => (cpu === null ? UNKNOWN : `${cpu.toFixed(2)}%`) },
    { title: "MEM", value: ({ sample }) => memory(sample.memoryWorkingSet) },
    { title: "MEM AVAILABLE", value: ({ sample }) => memory(sample.memoryAvailable) },
    {
      title: "WRITTEN",
      value: ({ sample }) => (sample.writableLayer === null ? UNKNOWN : humanSize(sample.writableLayer)),
    },
  ];
}

const numberOf = (value: bigint | null): number | null => (value === null ? null : Number(value));

const rowJson = ({ sample, cpu }: Row): object => ({
  id: sample.id,
  name: sample.name,
  cpuPercent: cpu,
  cpuNanoseconds: numberOf(sample.cpuNanoseconds),
  memoryWorkingSet: numberOf(sample.memoryWorkingSet),
  memoryUsage: numberOf(sample.memoryUsage),
  memoryAvailable: numberOf(sample.memoryAvailable),
  writableLayer: numberOf(sample.writableLayer),
});
