/** Help in the layout of runc's (urfave/cli). */
import type { CommandSpec } from "./commands.ts";
import type { Flag } from "./flags.ts";

const HELP_FLAG: Flag = { name: "help", short: "h", kind: "boolean", usage: "show help" };

export function commandHelp(
  { name, summary, usage, description, flags }: CommandSpec,
  global: readonly Flag[],
): string {
  const parts = [
    `NAME:\n   berth-runc ${name} - ${summary}`,
    `USAGE:\n   berth-runc ${name} [options] ${usage}`,
    ...(description === undefined ? [] : [`DESCRIPTION:\n   ${description}`]),
    `OPTIONS:\n${flagLines([...flags, HELP_FLAG])}`,
    `GLOBAL OPTIONS:\n${flagLines(global)}`,
  ];
  return `${parts.join("\n\n")}\n`;
}

export function globalHelp(version: string, commands: readonly CommandSpec[], flags: readonly Flag[]): string {
  const shown = commands.filter(({ hidden }) => hidden !== true);
  const width = Math.max(...shown.map(({ name }) => name.length), "help, h".length) + 2;
  const lines = [
    ...shown.map(({ name, summary }) => `   ${name.padEnd(width)}${summary}`),
    `   ${"help, h".padEnd(width)}Shows a list of commands or help for one command`,
  ];
  return `NAME:
   berth-runc - Open Container Initiative runtime

berth-runc is a command line client for running applications packaged according to
the Open Container Initiative (OCI) format, in the place of runc: the same commands,
flags, outputs and exit codes. Containers are configured by bundles: a directory with
a config.json and a root file system.

To start a new instance of a container:

    # berth-runc run [ -b bundle ] <container-id>

USAGE:
   berth-runc [global options] [command [command options]]

VERSION:
   ${version.trimEnd().split("\n").join("\n   ")}

COMMANDS:
${lines.join("\n")}

GLOBAL OPTIONS:
${flagLines([...flags, HELP_FLAG, { name: "version", short: "v", kind: "boolean", usage: "print the version" }])}
`;
}

function flagLines(flags: readonly Flag[]): string {
  const rows = flags
    .filter(({ hidden }) => hidden !== true)
    .map((flag) => ({ names: names(flag), usage: usageOf(flag) }));
  const width = Math.max(...rows.map((row) => row.names.length)) + 2;
  return rows.map((row) => `   ${row.names.padEnd(width)}${row.usage}`).join("\n");
}

const VALUES: Readonly<Record<Flag["kind"], string>> = {
  boolean: "",
  text: " string",
  texts: " string",
  number: " int",
  numbers: " int",
  duration: " duration",
};

function names({ name, short, kind }: Flag): string {
  const all = [`--${name}${VALUES[kind]}`, ...(short === undefined ? [] : [`-${short}${VALUES[kind]}`])].join(", ");
  return kind === "texts" || kind === "numbers" ? `${all} [ ${all} ]` : all;
}

function usageOf({ usage, default: value, kind }: Flag): string {
  if (value === undefined) return usage;
  return `${usage} (default: ${kind === "text" ? JSON.stringify(value) : value})`;
}
