import { cri } from "@berth/spec";
import { create } from "@bufbuild/protobuf";
import type { CommandSpec, Context, Runtime } from "../command.ts";
import { wrap } from "../errors.ts";
import { bool, string } from "../flags.ts";
import { humanSize } from "../go/units.ts";
import { printMessage } from "../output.ts";
import { percentage, sample, SAMPLE_FLAGS } from "../sampling.ts";
import { parseLabels, truncated } from "../select.ts";
import { repeatedly } from "../watch.ts";

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

const ANSWER = cri.ListContainerStatsResponseSchema;

function show(context: Context, runtime: Runtime): Promise<void> {
  const { flags } = context;
  const filter = {
    id: flags.string("id") || (flags.args[0] ?? ""),
    podSandboxId: flags.string("pod"),
    labelSelector: parseLabels(flags.slice("label")),
  };
  return sample<cri.ContainerStats>(context, {
    list: () => runtime.listContainerStats({ filter }),
    print: (list, format) => printMessage(context, ANSWER, create(ANSWER, { stats: list }), format),
    header: ["CONTAINER", "NAME", "CPU %", "MEM", "DISK", "INODES", "SWAP"],
    row: (now, before) => row(now, before, flags.bool("all")),
  });
}

function row(now: cri.ContainerStats, before: cri.ContainerStats, all: boolean): string[] | undefined {
  const [cpu, memory] = [now.cpu?.usageCoreNanoSeconds?.value ?? 0n, now.memory?.workingSetBytes?.value ?? 0n];
  if (!all && cpu === 0n && memory === 0n) return undefined;
  const size = (bytes: bigint | undefined): string => humanSize(Number(bytes ?? 0n));
  return [
    truncated(now.attributes?.id ?? ""),
    now.attributes?.metadata?.name ?? "",
    percentage(now.cpu, before.cpu),
    size(memory),
    size(now.writableLayer?.usedBytes?.value),
    String(now.writableLayer?.inodesUsed?.value ?? 0n),
    size(now.swap?.swapUsageBytes?.value),
  ];
}
