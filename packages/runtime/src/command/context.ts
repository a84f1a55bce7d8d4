/** What every command gets: the global flags, and the ways to act and to speak. */
import type { Front } from "@berth/kernel";
import type { StateDirectory } from "../state/record.ts";
import type { Flags } from "./flags.ts";
import type { Log } from "./log.ts";

export interface CommandContext {
  readonly flags: Flags;
  readonly args: readonly string[];
  /** Given before the command. */
  readonly global: Flags;
  readonly states: StateDirectory;
  readonly log: Log;
  /** The process that the caller started. */
  readonly front: () => Promise<Front>;
  readonly out: (text: string) => void;
}

export interface Command {
  /** The exit status; undefined: 0, or what becomes of a process that is attended. */
  readonly run: (context: CommandContext) => Promise<number | undefined> | number | undefined;
}
