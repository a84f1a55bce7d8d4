/** How every command of berth behaves: errors are exceptions, output goes through the shell. */
import { type Command, Help, type Option } from "commander";
import type { Shell } from "./shell.ts";

/** Columns that help is written in where output is no terminal. */
const PAGE_WIDTH = 100;

export function configure(command: Command, { stdout, stderr }: Shell): void {
  command
    .exitOverride()
    .helpOption("-h, --help", "print this help")
    .configureOutput({
      writeOut: (text) => void stdout.write(text),
      // Errors are printed once, by the program as a whole.
      writeErr: () => undefined,
      getOutHelpWidth: () => stdout.columns || PAGE_WIDTH,
      getErrHelpWidth: () => stderr.columns || PAGE_WIDTH,
    })
    .configureHelp({ optionDescription: describe });
}

/** As commander's, but for options that may be repeated: their default is an empty list, which says nothing. */
function describe(option: Option): string {
  return Array.isArray(option.defaultValue) ? option.description : new Help().optionDescription(option);
}
