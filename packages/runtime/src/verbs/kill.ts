/** kill: a signal to the container's process, or where it shares its PID namespace and the signal is SIGKILL to all of its cgroup. */
import { constants } from "node:os";
import type { Command } from "../command/context.ts";
import { CommandError } from "../command/failure.ts";
import { sharesPids } from "../state/flat.ts";
import { thaw } from "../state/freezer.ts";
import type { ContainerRecord, StateDirectory } from "../state/record.ts";
import { processesOf } from "../state/processes.ts";
import { isAlive, statusOf } from "../state/status.ts";

const { SIGKILL } = constants.signals;

export const command: Command = {
  async run({ args: [id = "", name = "SIGTERM"], flags, states }) {
    const record = states.read(id);
    const { parseSignal } = await import("../state/signals.ts");
    // 0 only asks whether there is anybody to signal (kill(2)).
    const signal = name === "0" ? 0 : parseSignal(name);
    if (signal === undefined) throw new CommandError(`unknown signal ${JSON.stringify(name)}`);
    if (!flags.boolean("all")) killContainer(record, states, signal);
    else if (processesOf(record).length > 0) killAll(record, signal);
    return 0;
  },
};

/** Throws CommandError where the container's process is gone. */
export function killContainer(record: ContainerRecord, states: StateDirectory, signal: number): void {
  const wasPaused = statusOf(record, states) === "paused";
  const shared = sharesPids(record);
  if (!isAlive(record)) {
    // Without a PID namespace of its own what it started outlives it.
    if (shared && signal === SIGKILL && processesOf(record).length > 0) return killAll(record, signal);
    throw new CommandError("container not running");
  }
  // Without a cgroup (an ordinary user's) nobody else can be found.
  if (shared && signal === SIGKILL && processesOf(record).length > 0) killAll(record, signal);
  else process.kill(record.init_process_pid, signal);
  // A frozen process dies only once it runs again.
  if (wasPaused && signal === SIGKILL) thaw(record);
}

function killAll(record: ContainerRecord, signal: number): void {
  const pids = processesOf(record);
  if (pids.length === 0) throw new CommandError("container not running");
  for (const pid of pids) {
    try {
      process.kill(pid, signal);
    } catch (error) {
      if ((error as NodeJS.ErrnoException).code !== "ESRCH") throw error;
    }
  }
  if (signal === SIGKILL) thaw(record);
}
