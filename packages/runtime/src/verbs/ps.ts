/** ps: the container's processes, as the host's ps shows them. */
import type { Command } from "../command/context.ts";
import { CommandError } from "../command/failure.ts";
import { runProgram } from "../command/program.ts";
import { processesOf } from "../state/processes.ts";

export const command: Command = {
  run({ args: [id = "", ...rest], flags, states, out }) {
    const pids = processesOf(states.read(id));
    const format = flags.text("format") || "table";
    if (format === "json") out(`${pids.length === 0 ? "null" : JSON.stringify(pids)}\n`);
    else if (format === "table") out(select(psOutput(rest.length === 0 ? ["-ef"] : rest), new Set(pids)));
    else throw new CommandError("invalid format option");
    return 0;
  },
};

function psOutput(args: readonly string[]): string[] {
  const { status, stdout, stderr } = runProgram("ps", args);
  if (status !== 0) throw new CommandError(`exit status ${status}: ${stdout}${stderr}`);
  return stdout.split("\n");
}

/** The heading, and the lines whose PID is one of those. */
function select([heading = "", ...lines]: readonly string[], pids: ReadonlySet<number>): string {
  const column = heading.trim().split(/\s+/).indexOf("PID");
  if (column < 0) throw new CommandError("couldn't find PID field in ps output");
  const own = lines.filter((line) => line !== "" && pids.has(Number(line.trim().split(/\s+/)[column])));
  return [heading, ...own].map((line) => `${line}\n`).join("");
}
