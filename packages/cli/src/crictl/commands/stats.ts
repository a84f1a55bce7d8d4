import { setTimeout as sleep } from "node:timers/promises";
import { cri } from "@berth/spec";
import { create } from "@bufbuild/protobuf";
import type { CommandSpec, Context, Runtime } from "../command.ts";
import { CrictlError, wrap } from "../errors.ts";
import { bool, int, slice, string } from "../flags.ts";
import { table } from "../go/table.ts";
import { humanSize } from "../go/units.ts";
import { printMessage } from "../output.ts";
import { parseLabels, truncated } from "../select.ts";
import { CLEAR, repeatedly } from "../watch.ts";

export const SAMPLE_FLAGS = [
  slice("label", "Filter by key=value label"),
  string("output", "Output format, One of: json|yaml|table", { aliases: ["o"] }),
  int("seconds", "Sample duration for CPU usage in seconds", { aliases: ["s"], value: 1 }),
  bool("watch", "Watch pod resources", { aliases: ["w"] }),
];

export const stats: CommandSpec = {
  name: "stats",
  usage: "List container(s) resource usage statistics",
  argsUsage: "[ID]",
  shortOptions: true,
  flags: [
    bool("all", "Show all containers (default shows just running)", { aliases: ["a"] }),
    string("id", "Filter by container id"),
    string("pod", "Filter by pod id", { aliases: ["p"] }),
    ...SAMPLE_FLAGS,
  ],
  async run(context) {
    if (context.flags.args.length > 1) return context.help();
    const runtime = await context.runtime();
    await wrap("get container stats", () => repeatedly(context, () => show(context, runtime)));
  },
};

const HEADER = ["CONTAINER", "NAME", "CPU %", "MEM", "DISK", "INODES", "SWAP"];

async function show(context: Context, runtime: Runtime): Promise<void> {
  const { flags } = context;
  const filter = {
    id: flags.string("id") || (flags.args[0] ?? ""),
    podSandboxId: flags.string("pod"),
    labelSelector: parseLabels(flags.slice("label")),
  };
  const read = async () =>
    (await runtime.listContainerStats({ filter })).stats.toSorted((a, b) =>
      (a.attributes?.id ?? "") < (b.attributes?.id ?? "") ? -1 : 1,
    );
  const first = await read();
  const format = flags.string("output");
  if (format === "json" || format === "yaml")
    return printMessage(
      context,
      cri.ListContainerStatsResponseSchema,
      create(cri.ListContainerStatsResponseSchema, { stats: first }),
      format,
    );
  await sleep(flags.number("seconds") * 1000);
  const before = new Map(first.map((each) => [each.attributes?.id, each]));
  const rows = (await read()).flatMap((now) => row(now, before.get(now.attributes?.id), flags.bool("all")));
  context.shell.stdout.write(CLEAR + table([HEADER, ...rows]));
}

/** undefined `before`: it has come since, and has nothing to be compared with. */
function row(now: cri.ContainerStats, before: cri.ContainerStats | undefined, all: boolean): string[][] {
  const [cpu, memory] = [now.cpu?.usageCoreNanoSeconds?.value ?? 0n, now.memory?.workingSetBytes?.value ?? 0n];
  if (!before || (!all && cpu === 0n && memory === 0n)) return [];
  const size = (bytes: bigint | undefined): string => humanSize(Number(bytes ?? 0n));
  return [
    [
      truncated(now.attributes?.id ?? ""),
      now.attributes?.metadata?.name ?? "",
      percentage(now.cpu, before.cpu),
      size(memory),
      size(now.writableLayer?.usedBytes?.value),
      String(now.writableLayer?.inodesUsed?.value ?? 0n),
      size(now.swap?.swapUsageBytes?.value),
    ],
  ];
}

export function percentage(now: cri.CpuUsage | undefined, before: cri.CpuUsage | undefined): string {
  const used = now?.usageCoreNanoSeconds?.value ?? 0n;
  if (used === 0n) return "0.00";
  const passed = (now?.timestamp ?? 0n) - (before?.timestamp ?? 0n);
  if (passed === 0n) throw new CrictlError("cpu stat is not updated during sample");
  return ((Number(used - (before?.usageCoreNanoSeconds?.value ?? 0n)) / Number(passed)) * 100).toFixed(2);
}
