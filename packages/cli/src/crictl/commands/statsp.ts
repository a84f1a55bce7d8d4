import { setTimeout as sleep } from "node:timers/promises";
import { cri } from "@berth/spec";
import { create } from "@bufbuild/protobuf";
import type { CommandSpec, Context, Runtime } from "../command.ts";
import { wrap } from "../errors.ts";
import { string } from "../flags.ts";
import { table } from "../go/table.ts";
import { humanSize } from "../go/units.ts";
import { printMessage } from "../output.ts";
import { parseLabels, truncated } from "../select.ts";
import { CLEAR, repeatedly } from "../watch.ts";
import { percentage, SAMPLE_FLAGS } from "./stats.ts";

export const statsp: CommandSpec = {
  name: "statsp",
  usage:
    "List pod statistics. Stats represent a structured API that will fulfill the Kubelet's /stats/summary endpoint.",
  argsUsage: "[ID]",
  shortOptions: true,
  flags: [string("id", "Filter by pod id"), ...SAMPLE_FLAGS],
  async run(context) {
    if (context.flags.args.length > 1) return context.help();
    const runtime = await wrap("get runtime service", () => context.runtime());
    await wrap("get pod stats", () => repeatedly(context, () => show(context, runtime)));
  },
};

const HEADER = ["POD", "POD ID", "CPU %", "MEM"];

async function show(context: Context, runtime: Runtime): Promise<void> {
  const { flags } = context;
  const filter = { id: flags.string("id") || (flags.args[0] ?? ""), labelSelector: parseLabels(flags.slice("label")) };
  const read = async () =>
    (await wrap("list pod sandbox stats", () => runtime.listPodSandboxStats({ filter }))).stats.toSorted((a, b) =>
      (a.attributes?.id ?? "") < (b.attributes?.id ?? "") ? -1 : 1,
    );
  const first = await read();
  const format = flags.string("output");
  if (format === "json" || format === "yaml")
    return printMessage(
      context,
      cri.ListPodSandboxStatsResponseSchema,
      create(cri.ListPodSandboxStatsResponseSchema, { stats: first }),
      format,
    );
  await sleep(flags.number("seconds") * 1000);
  const before = new Map(first.map((each) => [each.attributes?.id, each]));
  const rows = (await read()).flatMap((now) => row(now, before.get(now.attributes?.id)));
  context.shell.stdout.write(CLEAR + table([HEADER, ...rows]));
}

function row(now: cri.PodSandboxStats, before: cri.PodSandboxStats | undefined): string[][] {
  const { cpu, memory } = now.linux ?? {};
  const used = memory?.workingSetBytes?.value ?? 0n;
  if (!before || ((cpu?.usageCoreNanoSeconds?.value ?? 0n) === 0n && used === 0n)) return [];
  return [
    [
      now.attributes?.metadata?.name ?? "",
      truncated(now.attributes?.id ?? ""),
      percentage(cpu, before.linux?.cpu),
      humanSize(Number(used)),
    ],
  ];
}
