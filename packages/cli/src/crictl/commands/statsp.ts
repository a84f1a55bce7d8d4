import { cri } from "@berth/spec";
import { create } from "@bufbuild/protobuf";
import type { CommandSpec, Context, Runtime } from "../command.ts";
import { wrap } from "../errors.ts";
import { string } from "../flags.ts";
import { humanSize } from "../go/units.ts";
import { printMessage } from "../output.ts";
import { percentage, sample, SAMPLE_FLAGS } from "../sampling.ts";
import { parseLabels, truncated } from "../select.ts";
import { repeatedly } from "../watch.ts";

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

const ANSWER = cri.ListPodSandboxStatsResponseSchema;

function show(context: Context, runtime: Runtime): Promise<void> {
  const { flags } = context;
  const filter = { id: flags.string("id") || (flags.args[0] ?? ""), labelSelector: parseLabels(flags.slice("label")) };
  return sample<cri.PodSandboxStats>(context, {
    list: () => wrap("list pod sandbox stats", () => runtime.listPodSandboxStats({ filter })),
    print: (list, format) => printMessage(context, ANSWER, create(ANSWER, { stats: list }), format),
    header: ["POD", "POD ID", "CPU %", "MEM"],
    row,
  });
}

function row(now: cri.PodSandboxStats, before: cri.PodSandboxStats): string[] | undefined {
  const { cpu, memory } = now.linux ?? {};
  const used = memory?.workingSetBytes?.value ?? 0n;
  if ((cpu?.usageCoreNanoSeconds?.value ?? 0n) === 0n && used === 0n) return undefined;
  return [
    now.attributes?.metadata?.name ?? "",
    truncated(now.attributes?.id ?? ""),
    percentage(cpu, before.linux?.cpu),
    humanSize(Number(used)),
  ];
}
