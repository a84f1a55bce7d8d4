/** What /metrics answers: the telemetry, what exists now, and the daemon's own process. */
import { readdir, readFile } from "node:fs/promises";
import { monitorEventLoopDelay } from "node:perf_hooks";
import type { CriContext } from "../context.ts";
import { readings } from "./metrics.ts";

/** Clock ticks in a second, as /proc shows times on every machine that Linux runs on today. */
const TICKS = 100;

/** Resolves the text of one scrape. */
export function exposition(context: CriContext): () => Promise<string> {
  const delay = monitorEventLoopDelay({ resolution: 20 });
  delay.enable();
  return async () => {
    const { telemetry } = context;
    const process_ = await ownProcess();
    const lines = [
      ...telemetry.calls.lines(),
      ...telemetry.stages.lines(),
      ...telemetry.plugins.lines(),
      ...inventory(context),
      ...readings("berth_event_loop_delay_seconds", "gauge", "How late the event loop was, since the last scrape.", [
        [{ quantile: "0.5" }, delay.percentile(50) / 1e9],
        [{ quantile: "0.99" }, delay.percentile(99) / 1e9],
        [{ quantile: "1" }, delay.max / 1e9],
      ]),
      ...readings("process_cpu_seconds_total", "counter", "User and system time of berthd.", [[{}, process_.cpu]]),
      ...readings("process_resident_memory_bytes", "gauge", "Memory of berthd in RAM.", [[{}, process_.rss]]),
      ...readings("process_open_fds", "gauge", "Open descriptors of berthd.", [[{}, process_.descriptors]]),
    ];
    delay.reset();
    return `${lines.join("\n")}\n`;
  };
}

function* inventory(context: CriContext): Generator<string> {
  const count = (phases: Iterable<string>): [{ state: string }, number][] => {
    const counts = new Map<string, number>();
    for (const phase of phases) counts.set(phase, (counts.get(phase) ?? 0) + 1);
    return [...counts].map(([state, number]) => [{ state }, number]);
  };
  const pods = context.sandboxes.values().map(({ record }) => record.phase);
  const containers = context.containers.values().map(({ record }) => record.phase);
  yield* readings("berth_build_info", "gauge", "The version that runs.", [[{ version: context.config.version }, 1]]);
  yield* readings("berth_pods", "gauge", "Pods, by state.", count(pods));
  yield* readings("berth_containers", "gauge", "Containers, by state.", count(containers));
  yield* readings("berth_images", "gauge", "Images in the store.", [[{}, context.images.list().length]]);
  yield* readings("berth_network_ready", "gauge", "1: the CNI network can take pods.", [
    [{}, context.cni.status().ready ? 1 : 0],
  ]);
}

/** proc_pid_stat(5): utime, stime and rss are fields 14, 15 and 24. */
async function ownProcess(): Promise<{ cpu: number; rss: number; descriptors: number }> {
  const stat = await readFile("/proc/self/stat", "utf8");
  const fields = stat.slice(stat.lastIndexOf(")") + 2).split(" ");
  const ticks = Number(fields[11]) + Number(fields[12]);
  return {
    cpu: ticks / TICKS,
    rss: process.memoryUsage.rss(),
    descriptors: (await readdir("/proc/self/fd")).length,
  };
}
