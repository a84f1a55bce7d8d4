/** completion: a script by which a shell completes the command's words, made of the command itself. */
import type { Command } from "commander";

export const SHELLS = ["bash", "fish", "powershell", "zsh"] as const;
export type Shell = (typeof SHELLS)[number];

interface Word {
  readonly names: readonly string[];
  readonly about: string;
}

interface Flag extends Word {
  readonly takesValue: boolean;
}

interface Described extends Word {
  readonly flags: readonly Flag[];
}

/** `descriptions`: what each word means is shown beside it, where the shell can. */
export function completionScript(shell: Shell, root: Command, descriptions: boolean): string {
  const about = (text: string): string => (descriptions ? text : "");
  const commands = root.commands.map((command) => described(command, about));
  const flags = flagsOf(root, about);
  return { bash, fish, powershell, zsh }[shell](commands, flags);
}

function described(command: Command, about: (text: string) => string): Described {
  const names = [command.name(), ...command.aliases()];
  return { names, about: about(command.description()), flags: flagsOf(command, about) };
}

function flagsOf(command: Command, about: (text: string) => string): Flag[] {
  const own = command.options.map(({ short, long, description, required }) => ({
    names: [long ?? "", short ?? ""].filter((name) => name !== ""),
    about: about(description),
    takesValue: required,
  }));
  return [...own, { names: ["--help", "-h"], about: about("display help for command"), takesValue: false }];
}

const namesOf = (words: readonly Word[]): string[] => words.flatMap(({ names }) => names);
const valued = (flags: readonly Flag[]): string[] => namesOf(flags.filter(({ takesValue }) => takesValue));

/** Files, where no word fits. */
function bash(commands: readonly Described[], flags: readonly Flag[]): string {
  const cases = commands.map(
    ({ names, flags: own }) => `    ${names.join("|")}) words="${namesOf([...own, ...flags]).join(" ")}" ;;\n`,
  );
  return `# bash completion for cdi
_cdi() {
  local cur=\${COMP_WORDS[COMP_CWORD]} command= words before= word
  for word in "\${COMP_WORDS[@]:1:COMP_CWORD-1}"; do
    case $before in ${valued(flags).join("|")}) before=; continue ;; esac
    case $word in -*) before=$word ;; *) command=$word; break ;; esac
  done
  case $command in
    "") words="${namesOf([...commands, ...flags]).join(" ")}" ;;
${cases.join("")}  esac
  COMPREPLY=($(compgen -W "$words" -- "$cur"))
}
complete -o default -F _cdi cdi
`;
}

const quoted = (text: string): string => `'${text.replaceAll("'", String.raw`'\''`)}'`;

function zsh(commands: readonly Described[], flags: readonly Flag[]): string {
  const entry = ({ names, about }: Word, name: string): string =>
    quoted(about === "" || names.length === 0 ? name : `${name}:${about}`);
  const words = (all: readonly Word[]): string =>
    all.flatMap((word) => word.names.map((name) => entry(word, name))).join(" ");
  const cases = commands.map(
    ({ names, flags: own }) => `    (${names.join("|")}) all=(${words([...own, ...flags])}) ;;\n`,
  );
  return `#compdef cdi
# zsh completion for cdi
_cdi() {
  local -a all
  local command= before= word
  for word in "\${(@)words[2,CURRENT-1]}"; do
    case $before in (${valued(flags).join("|")}) before=; continue ;; esac
    case $word in (-*) before=$word ;; (*) command=$word; break ;; esac
  done
  case $command in
    ("") all=(${words([...commands, ...flags])}) ;;
${cases.join("")}  esac
  _describe cdi all || _files
}
compdef _cdi cdi
`;
}

const fishText = (text: string): string => `'${text.replaceAll("\\", "\\\\").replaceAll("'", String.raw`\'`)}'`;

function fish(commands: readonly Described[], flags: readonly Flag[]): string {
  const flagLine = (condition: string, { names, about, takesValue }: Flag): string => {
    const [long = "", short] = names;
    const letter = short === undefined ? "" : ` -s ${short.slice(1)}`;
    const more = `${takesValue ? " -r" : ""}${about === "" ? "" : ` -d ${fishText(about)}`}`;
    return `complete -c cdi${condition} -l ${long.slice(2)}${letter}${more}\n`;
  };
  const lines = commands.flatMap(({ names, about, flags: own }) => [
    ...names.map(
      (name) =>
        `complete -c cdi -n __fish_use_subcommand -f -a ${name}${about === "" ? "" : ` -d ${fishText(about)}`}\n`,
    ),
    ...own.map((flag) => flagLine(` -n '__fish_seen_subcommand_from ${names.join(" ")}'`, flag)),
  ]);
  return `# fish completion for cdi\n${flags.map((flag) => flagLine("", flag)).join("")}${lines.join("")}`;
}

function powershell(commands: readonly Described[], flags: readonly Flag[]): string {
  const text = (value: string): string => `'${value.replaceAll("'", "''")}'`;
  const list = (words: readonly Word[]): string =>
    words.flatMap(({ names, about }) => names.map((name) => `${text(name)}=${text(about || name)}`)).join(";");
  const cases = commands.flatMap(({ names, flags: own }) =>
    names.map((name) => `    ${text(name)} { [ordered]@{${list([...own, ...flags])}} }\n`),
  );
  return `# powershell completion for cdi
Register-ArgumentCompleter -Native -CommandName 'cdi' -ScriptBlock {
  param($wordToComplete, $commandAst, $cursorPosition)
  $before = ''
  $command = ''
  foreach ($element in ($commandAst.CommandElements | Select-Object -Skip 1)) {
    $word = $element.ToString()
    if ($element.Extent.EndOffset -ge $cursorPosition) { break }
    if (${JSON.stringify(valued(flags)).replace("[", "@(").replace("]", ")")} -ccontains $before) { $before = ''; continue }
    if ($word.StartsWith('-')) { $before = $word } else { $command = $word; break }
  }
  $words = switch -CaseSensitive ($command) {
    '' { [ordered]@{${list([...commands, ...flags])}} }
${cases.join("")}  }
  $words.GetEnumerator() | Where-Object { $_.Key -like "$wordToComplete*" } | ForEach-Object {
    [System.Management.Automation.CompletionResult]::new($_.Key, $_.Key, 'ParameterValue', $_.Value)
  }
}
`;
}
