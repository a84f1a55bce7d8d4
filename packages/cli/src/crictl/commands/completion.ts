import type { CommandSpec, Context } from "../command.ts";
import { GLOBAL_FLAGS } from "../config.ts";
import { CrictlError } from "../errors.ts";
import { fishCompletion } from "../fish.ts";
import { HELP_FLAG, VERSION_FLAG } from "../help.ts";

const bash = (words: readonly string[]): string => `_crictl() {
    local cur opts base
    COMPREPLY=()
    cur="\${COMP_WORDS[COMP_CWORD]}"
    opts="${words.join("\n")}"
    COMPREPLY=( $(compgen -W "\${opts}" -- \${cur}) )
    return 0
}

complete -F _crictl crictl`;

const zsh = (commands: readonly string[], options: readonly string[]): string => `#compdef crictl

_crictl() {
  local -a cmds
  cmds=('${commands.join("' '")}')
  _describe 'commands' cmds

  local -a opts
  opts=('${options.join("' '")}')
  _describe 'global options' opts

  return
}

compdef _crictl crictl`;

export const completion: CommandSpec = {
  name: "completion",
  usage: "Output shell completion code",
  argsUsage: "SHELL",
  description: `Output shell completion code for bash, zsh or fish.

Examples:

    # Installing bash completion on Linux
    source <(crictl completion bash)

    # Installing zsh completion on Linux
    source <(crictl completion zsh)

    # Installing fish completion on Linux
    crictl completion fish | source
  `,
  async run(context) {
    const [shell = "bash"] = context.flags.args;
    if (context.flags.args.length > 1) return context.help();
    context.print(code(context, shell));
    await Promise.resolve();
  },
};

function code({ all }: Context, shell: string): string {
  const options = [...GLOBAL_FLAGS.toSorted((a, b) => (a.name < b.name ? -1 : 1)), HELP_FLAG, VERSION_FLAG].map(
    ({ name }) => `--${name}`,
  );
  const help = { name: "help", aliases: ["h"], usage: "Shows a list of commands or help for one command" };
  const commands = [...all, help].flatMap(({ name, aliases = [], usage }) =>
    [name, ...aliases].map((each) => ({ name: each, usage })),
  );
  if (shell === "bash") return bash([...commands.map(({ name }) => name), ...options]);
  if (shell === "zsh")
    return zsh(
      commands.map(({ name, usage }) => `${name}:${usage}`),
      options,
    );
  if (shell === "fish") return fishCompletion(all);
  throw new CrictlError("only bash, zsh or fish are supported");
}
