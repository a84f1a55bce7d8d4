/** Completion for fish: each command and its flags, once. */
import type { CommandSpec } from "./command.ts";
import { GLOBAL_FLAGS } from "./config.ts";
import type { Flag } from "./flags.ts";
import { HELP_FLAG, VERSION_FLAG } from "./help.ts";

const quoted = (text: string): string => `'${text.replaceAll("\\", "\\\\").replaceAll("'", "\\'")}'`;
const byName = (a: Flag, b: Flag): number => (a.name < b.name ? -1 : 1);
const NO_SUBCOMMAND = "__fish_crictl_no_subcommand";

function flagLine(condition: string, { name, aliases = [], type, usage }: Flag): string {
  const short = aliases[0] === undefined ? "" : ` -s ${aliases[0]}`;
  return `complete -c crictl -n '${condition}' -f -l ${name}${short}${type === "bool" ? "" : " -r"} -d ${quoted(usage)}`;
}

function commandLines(spec: CommandSpec, parent: string): string[] {
  const { name, aliases = [], usage, flags = [], subcommands = [] } = spec;
  const words = [name, ...aliases].join(" ");
  const seen = `__fish_seen_subcommand_from ${words}`;
  return [
    flagLine(seen, HELP_FLAG),
    `complete -r -c crictl -n '${parent}' -a '${words}' -d ${quoted(usage)}`,
    ...flags.toSorted(byName).map((flag) => flagLine(seen, flag)),
    ...subcommands.flatMap((each) => commandLines(each, seen)),
  ];
}

export function fishCompletion(commands: readonly CommandSpec[]): string {
  const words = commands.flatMap(({ name, aliases = [] }) => [name, ...aliases]);
  return [
    "# crictl fish shell completion",
    "",
    `function ${NO_SUBCOMMAND} --description 'Test if there has been any subcommand yet'`,
    "    for i in (commandline -opc)",
    `        if contains -- $i ${[...words, "help", "h"].join(" ")}`,
    "            return 1",
    "        end",
    "    end",
    "    return 0",
    "end",
    "",
    ...[...GLOBAL_FLAGS.toSorted(byName), HELP_FLAG, VERSION_FLAG].map((flag) => flagLine(NO_SUBCOMMAND, flag)),
    ...commands.flatMap((command) => commandLines(command, NO_SUBCOMMAND)),
    "",
  ].join("\n");
}
