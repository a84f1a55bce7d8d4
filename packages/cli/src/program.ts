/** The command line as a whole: which command is meant, and what becomes of its failure. */
import { Command, CommanderError } from "commander";
import { DEFAULT_ADDRESS } from "./address.ts";
import { CallError } from "./call-error.ts";
import { configure } from "./command.ts";
import { EXIT, Failure } from "./failure.ts";
import { Session } from "./session.ts";
import { type Shell, warn } from "./shell.ts";
import { BERTH, type Verb, VERBS } from "./verbs.ts";
import { VERSION } from "./version.ts";

/** Commands whose own failure must be told from their container's exit code. */
const RUNNERS = new Set(["run", "create"]);

/** Runs one command line (without program names) and returns the exit code. */
export async function berth(argv: readonly string[], shell: Shell): Promise<number> {
  using session = new Session(shell);
  const verb = verbOf(argv);
  try {
    const program = await buildProgram(session, verb);
    if (argv.length === 0) program.outputHelp();
    else await program.parseAsync(argv, { from: "user" });
    return session.exitCode;
  } catch (error) {
    const code = report(shell, error, verb);
    return code === EXIT.failure && verb !== undefined && RUNNERS.has(verb) ? EXIT.runFailure : code;
  }
}

const EXAMPLES = `
Examples:
  berth run --rm -it IMAGE sh                a shell in a new container, gone afterwards
  berth run -d --name web -p 8080:80 IMAGE   a server, in the background
  berth logs -f web                          what it writes
  berth exec -it web sh                      a shell beside it
  berth stop web && berth rm web             away with it

berthd must run, and most commands need root. "berth COMMAND --help" tells more.`;

async function buildProgram(session: Session, verb: string | undefined): Promise<Command> {
  const program = new Command("berth");
  configure(program, session.shell);
  program
    .description("Runs containers and pods: the command beside berthd, in nerdctl's and docker's grammar.")
    .usage("[options] COMMAND")
    .option(
      "-a, --address <socket>",
      `berthd's socket (default: $BERTH_ADDRESS, $CONTAINER_RUNTIME_ENDPOINT, ${DEFAULT_ADDRESS})`,
    )
    .option("-H, --host <socket>", "the same, in docker's spelling")
    .version(`berth ${VERSION}`, "-v, --version", "print the version of berth, without asking berthd")
    .addHelpText("after", EXAMPLES)
    .addHelpCommand(helpCommand(program))
    .enablePositionalOptions()
    .hook("preAction", () => session.setAddress(addressOption(program)));
  for (const each of VERBS) await addVerb(program, each, session, each.name === verb);
  return program;
}

const helpCommand = (program: Command): Command =>
  program.createCommand("help").argument("[command]").summary("print help for a command").helpGroup(BERTH);

async function addVerb(
  program: Command,
  { name, aliases = [], group, summary, load }: Verb,
  session: Session,
  wanted: boolean,
): Promise<void> {
  const command = program.createCommand(name).summary(summary).helpGroup(group).aliases(aliases);
  configure(command, session.shell);
  if (wanted) {
    command.description(`${summary.charAt(0).toUpperCase()}${summary.slice(1)}.`);
    await (await load()).define(command, session);
  }
  program.addCommand(command);
}

function addressOption(program: Command): string | undefined {
  const { address, host } = program.opts<{ address?: string; host?: string }>();
  if (address !== undefined && host !== undefined && address !== host)
    throw new Failure("--address and --host name the same thing: give one of them");
  return address ?? host;
}

const WITH_VALUE = new Set(["-a", "--address", "-H", "--host"]);

/** The first word that is not an option of berth's own; for "help run", the word after it. */
export function verbOf(argv: readonly string[]): string | undefined {
  for (let index = 0; index < argv.length; index++) {
    const word = argv[index] ?? "";
    if (WITH_VALUE.has(word)) index++;
    else if (word === "help") continue;
    else if (!word.startsWith("-"))
      return VERBS.find(({ name, aliases = [] }) => name === word || aliases.includes(word))?.name;
  }
  return undefined;
}

/** Says what went wrong, in one line, and returns the exit code. */
function report(shell: Shell, error: unknown, verb: string | undefined): number {
  if (error instanceof CommanderError) return reportUsage(shell, error, verb);
  if (error instanceof Failure) {
    warn(shell, error.message);
    return error.exitCode;
  }
  if (error instanceof CallError) {
    warn(shell, error.message);
    return EXIT.failure;
  }
  warn(
    shell,
    `this is a fault of berth itself: ${error instanceof Error ? (error.stack ?? error.message) : String(error)}`,
  );
  return EXIT.failure;
}

function reportUsage(shell: Shell, error: CommanderError, verb: string | undefined): number {
  if (error.exitCode === 0) return 0;
  // A command of commands without one of them: its help is the answer, and commander has nowhere to print it.
  const message =
    error.code === "commander.help"
      ? "a command is missing"
      : error.message.replace(/^error: /, "").replaceAll("\n", " ");
  warn(shell, `${message}; see berth ${verb === undefined ? "" : `${verb} `}--help`);
  return EXIT.failure;
}
