/** The `cdi` command: the reference's commands, flags and output. */
import { Command, CommanderError, Option } from "commander";
import { completionScript, SHELLS } from "./commands/completion.ts";
import { CommandContext, Failure, type GlobalOptions, type Io } from "./commands/context.ts";
import { inject, resolve } from "./commands/inject.ts";
import { classes, type Details, devices, dirs, specs, vendors } from "./commands/lists.ts";
import { monitor } from "./commands/monitor.ts";
import { validate } from "./commands/validate.ts";

/** Exit status. */
export async function cdi(argv: readonly string[], io: Io): Promise<number> {
  try {
    await program(io).parseAsync(argv, { from: "user" });
    return 0;
  } catch (error) {
    if (error instanceof CommanderError) return error.code === "commander.help" ? 0 : error.exitCode;
    if (!(error instanceof Failure)) throw error;
    if (error.message !== "") io.stderr.write(`${error.message}\n`);
    return 1;
  }
}

function program(io: Io): Command {
  const command = new Command("cdi")
    .description("Inspect and interact with the CDI cache")
    .addOption(
      new Option("-d, --spec-dirs <strings>", "directories to scan for CDI Spec files")
        .argParser((text, before: readonly string[]) => [...before, ...text.split(",")])
        .default([], "/etc/cdi,/var/run/cdi"),
    )
    .option("-s, --schema <string>", "JSON schema to use for validation: builtin, none, or a file", "builtin")
    .exitOverride()
    .configureOutput({
      writeOut: (text) => io.stdout.write(text),
      writeErr: (text) => io.stderr.write(text),
      outputError: (text, write) => write(text.replace(/^error: /, "Error: ")),
    })
    .allowExcessArguments(true)
    .action(() => {
      const [unknown] = command.args;
      if (unknown === undefined) command.help();
      command.error(`Error: unknown command "${unknown}" for "cdi"\nRun 'cdi --help' for usage.`);
    });
  const context = new CommandContext(io, () => command.opts<GlobalOptions>());
  addLists(command, context);
  addInjection(command, context);
  command
    .command("validate")
    .description("List CDI cache errors; exit with status 1 if there are any")
    .action(() => validate(context));
  details(command.command("monitor").argument("[aspects...]", "specs, vendors, classes, devices, all"))
    .description("Monitor CDI Spec directories and refresh on changes")
    .action((aspects: string[], options: Partial<Details>) => monitor(context, aspects, asked(options)));
  addCompletion(command, context);
  return command;
}

function addCompletion(command: Command, context: CommandContext): void {
  const completion = command
    .command("completion")
    .description("Generate the autocompletion script for the specified shell")
    .helpCommand(false);
  for (const shell of SHELLS)
    completion
      .command(shell)
      .description(`Generate the autocompletion script for ${shell}`)
      .option("--no-descriptions", "disable completion descriptions")
      .action(({ descriptions }: { descriptions: boolean }) =>
        context.print(completionScript(shell, command, descriptions)),
      );
}

function addLists(command: Command, context: CommandContext): void {
  command
    .command("classes")
    .description("List CDI device classes")
    .action(async () => context.print(classes(await context.registry())));
  command
    .command("vendors")
    .description("List vendors")
    .action(async () => context.print(vendors(await context.registry())));
  command
    .command("dirs")
    .description("Show CDI Spec directories in use; the later one has the higher priority")
    .action(async () => context.print(dirs(await context.registry())));
  details(command.command("devices"))
    .aliases(["devs", "dev"])
    .description("List devices in the CDI cache")
    .action(async (options: Partial<Details>) => context.print(devices(await context.registry(), asked(options))));
  details(command.command("specs").argument("[vendors...]"))
    .description("List available CDI Specs")
    .action(async (names: string[], options: Partial<Details>) =>
      context.print(specs(await context.registry(), asked(options), names)),
    );
}

function addInjection(command: Command, context: CommandContext): void {
  command
    .command("inject")
    .aliases(["inj", "in", "oci"])
    .argument("[file]", 'OCI Spec; "-" for standard input')
    .argument("[devices...]", "qualified names, or patterns of them")
    .description("Inject CDI devices into an OCI Spec")
    .option("-o, --output <string>", "output format for OCI Spec (json|yaml)", "")
    .action((file: string | undefined, patterns: string[], options: { output: string }) =>
      inject(context, file, patterns, options.output),
    );
  command
    .command("resolve")
    .alias("res")
    .argument("[files...]", 'OCI Specs; "-" for standard input')
    .description("Resolve CDI devices present in an OCI Spec")
    .option("-o, --output <string>", "output format for OCI Spec (json|yaml)", "")
    .action((files: string[], options: { output: string }) => resolve(context, files, options.output));
}

function details(command: Command): Command {
  return command
    .option("-v, --verbose", "print details")
    .option("-o, --output <string>", "output format for details (json|yaml)", "");
}

const asked = ({ verbose = false, output = "" }: Partial<Details>): Details => ({ verbose, output });
