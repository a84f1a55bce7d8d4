/** What a command of crictl is, and what it gets to work with. */
import type { Client } from "../client.ts";
import type { Shell } from "../shell.ts";
import type { Settings } from "./config.ts";
import type { Flag, Parsed } from "./flags.ts";
import type { Level } from "./log.ts";

export interface CommandSpec {
  readonly name: string;
  readonly aliases?: readonly string[];
  readonly usage: string;
  /** Replaces the line that is made of the name and argsUsage. */
  readonly usageText?: string;
  readonly argsUsage?: string;
  readonly description?: string;
  readonly flags?: readonly Flag[];
  /** Whether "-it" is "-i -t". */
  readonly shortOptions?: boolean;
  readonly subcommands?: readonly CommandSpec[];
  run(context: Context): Promise<void>;
}

/** Only the calls; a connection is made, and checked, with the first one. */
export type Runtime = Client["runtime"];
export type Images = Client["images"];

export interface Context {
  readonly shell: Shell;
  readonly flags: Parsed;
  readonly settings: Settings;
  /** The global --config. */
  readonly configFile: string;
  /** `timeoutMs`: of each call, instead of --timeout. */
  runtime(timeoutMs?: number): Promise<Runtime>;
  images(): Promise<Images>;
  print(text: string): void;
  log(level: Level, message: string): void;
  /** As for a wrong number of arguments: exit code 0. */
  help(): void;
  /** For `completion`. */
  readonly all: readonly CommandSpec[];
}
