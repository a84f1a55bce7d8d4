/** events: a line of JSON for every interval's statistics and for every kill for memory, until the container has ended. */
import type { Command, CommandContext } from "../command/context.ts";
import { CommandError } from "../command/failure.ts";
import { parseDuration } from "@berth/spec/oci";
import type { ContainerRecord } from "../state/record.ts";
import { containerStats, oomKills } from "../state/stats.ts";
import { statusOf } from "../state/status.ts";

const DEFAULT_INTERVAL = "5s";

export const command: Command = {
  async run(context) {
    const { args, flags, states } = context;
    const record = states.read(args[0] ?? "");
    const interval = parseDuration(flags.text("interval") || DEFAULT_INTERVAL) ?? 0;
    if (interval <= 0) throw new CommandError("duration interval must be greater than 0");
    if (statusOf(record, states) === "stopped") throw new CommandError(`container with id ${record.id} is not running`);
    if (flags.boolean("stats")) print(context, "stats", record, containerStats(record));
    else await follow(context, record, interval);
    return 0;
  },
};

async function follow(context: CommandContext, record: ContainerRecord, interval: number): Promise<void> {
  const front = await context.front();
  const { memory = record.cgroup_paths[""] ?? "" } = record.cgroup_paths;
  let kills = oomKills(record);
  let next = Date.now() + interval;
  while (statusOf(record, context.states) !== "stopped") {
    front.waitOom({ memory, pid: record.init_process_pid, timeoutMs: Math.max(1, next - Date.now()) });
    const now = oomKills(record);
    if (now > kills) print(context, "oom", record);
    kills = Math.max(kills, now);
    if (Date.now() < next) continue;
    next += interval;
    print(context, "stats", record, containerStats(record));
  }
}

function print({ out }: CommandContext, type: string, { id }: ContainerRecord, data?: unknown): void {
  const event = { type, id, ...(data === undefined ? {} : { data }) };
  out(`${JSON.stringify(event, (_key, value: unknown) => (typeof value === "bigint" ? raw(value) : value))}\n`);
}

/** Limits are 64 bits wide, and JSON numbers may be. */
function raw(value: bigint): unknown {
  return (JSON as unknown as { rawJSON(text: string): unknown }).rawJSON(String(value));
}
