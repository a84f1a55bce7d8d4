/** Other programs that a command needs (ps, criu), run to their end: a command line has no loop that this could hold up. */
import { spawnSync } from "node:child_process";
import { CommandError } from "./failure.ts";

export interface ProgramResult {
  /** Exit status; 128+signal as a shell counts. */
  readonly status: number;
  /** Both outputs, as they came. */
  readonly stdout: string;
  readonly stderr: string;
}

/** Throws CommandError where it cannot be started. */
export function runProgram(name: string, args: readonly string[], inherited: readonly number[] = []): ProgramResult {
  const { status, signal, error, stdout, stderr } = spawnSync(name, args, {
    stdio: ["ignore", "pipe", "pipe", ...inherited],
    encoding: "utf8",
  });
  if (error !== undefined) {
    const missing = (error as NodeJS.ErrnoException).code === "ENOENT";
    throw new CommandError(
      missing ? `exec: ${JSON.stringify(name)}: executable file not found in $PATH` : error.message,
      {
        cause: error,
      },
    );
  }
  return { status: status ?? (signal === null ? 1 : KILLED), stdout, stderr };
}

const KILLED = 137;
