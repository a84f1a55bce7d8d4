/** Help as crictl's library lays it out. */
import type { CommandSpec } from "./command.ts";
import { bool, type Flag } from "./flags.ts";
import { formatDuration } from "./go/duration.ts";
import { layOut } from "./go/table.ts";

export const HELP_FLAG = bool("help", "show help", { aliases: ["h"] });
export const VERSION_FLAG = bool("version", "print the version", { aliases: ["v"] });
const HELP_COMMAND: readonly string[] = ["help, h", "Shows a list of commands or help for one command"];

const INDENT = "   ";
/** Between a name and what it means. */
const GAP = 2;

const dashes = (name: string): string => (name.length === 1 ? `-${name}` : `--${name}`);

function names({ name, aliases = [], type, usage }: Flag): string {
  const placeholder = type === "bool" ? "" : ` ${/`(.*?)`/.exec(usage)?.[1] ?? "value"}`;
  const all = [name, ...aliases].map((each) => dashes(each) + placeholder).join(", ");
  return type === "slice" ? `${all} [ ${all} ]` : all;
}

function defaultOf({ type, value, name }: Flag): string {
  if (name === HELP_FLAG.name || name === VERSION_FLAG.name) return "";
  switch (type) {
    case "bool":
      return " (default: false)";
    case "int":
      return ` (default: ${value ?? 0})`;
    case "duration":
      return ` (default: ${formatDuration(Number(value ?? 0))})`;
    case "string":
      return value ? ` (default: ${JSON.stringify(value)})` : "";
    case "slice":
      return "";
  }
}

const usageOf = (flag: Flag): string =>
  `${flag.usage.replaceAll("`", "").replaceAll("\n", `\n${INDENT}${INDENT}`)}${defaultOf(flag)}${flag.env ? ` [$${flag.env}]` : ""}`;

/** A usage of several lines ends the column: what follows is aligned anew. */
function options(flags: readonly Flag[]): string {
  const lines = flags
    .map((flag) => `${INDENT}${names(flag)}\t${usageOf(flag)}`)
    .join("\n")
    .split("\n");
  return layOut(
    lines.map((line) => line.split("\t")),
    0,
    GAP,
  );
}

const byName = (a: Flag, b: Flag): number => (a.name < b.name ? -1 : 1);

const commands = (list: readonly CommandSpec[]): string =>
  layOut(
    [...list.map(({ name, aliases = [], usage }) => [[name, ...aliases].join(", "), usage]), HELP_COMMAND].map(
      ([title = "", usage = ""]) => [`${INDENT}${title}`, usage],
    ),
    0,
    GAP,
  );

export function appHelp(list: readonly CommandSpec[], flags: readonly Flag[], version: string): string {
  return [
    `NAME:\n${INDENT}crictl - client for CRI\n`,
    `USAGE:\n${INDENT}crictl [global options] command [command options]\n`,
    `VERSION:\n${INDENT}${version}\n`,
    `COMMANDS:\n${commands(list)}`,
    `GLOBAL OPTIONS:\n${options([...flags.toSorted(byName), HELP_FLAG, VERSION_FLAG])}`,
  ].join("\n");
}

/** `full`: what is printed for a wrong command line, with the list of commands below it even where there is only "help". */
export function commandHelp(path: string, spec: CommandSpec, full: boolean): string {
  const { usage, usageText, argsUsage = "", description, subcommands = [], flags = [] } = spec;
  const line = usageText ?? `crictl ${path} [command options]${argsUsage && ` ${argsUsage}`}`;
  const parts = [`NAME:\n${INDENT}crictl ${path} - ${usage}\n`, `USAGE:\n${INDENT}${line}\n`];
  if (description) parts.push(`DESCRIPTION:\n${INDENT}${description.replace(/\n(?=[^\n])/g, `\n${INDENT}`)}\n`);
  if (full || subcommands.length > 0) parts.push(`COMMANDS:\n${commands(subcommands)}`);
  parts.push(`OPTIONS:\n${options([...(path === spec.name ? flags.toSorted(byName) : flags), HELP_FLAG])}`);
  return parts.join("\n");
}
