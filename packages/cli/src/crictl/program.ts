/** crictl's command line as a whole: which command is meant, and what becomes of its failure. */
import { CallError, DaemonUnreachable } from "../call-error.ts";
import { Failure } from "../failure.ts";
import type { Shell } from "../shell.ts";
import { VERSION } from "../version.ts";
import type { CommandSpec, Context } from "./command.ts";
import { COMMANDS } from "./commands/index.ts";
import { fileSettings, GLOBAL_FLAGS, resolve } from "./config.ts";
import { Connections } from "./connection.ts";
import { CrictlError, ExitError, messageOf, UsageError } from "./errors.ts";
import { parse, type Parsed } from "./flags.ts";
import { appHelp, commandHelp, HELP_FLAG, VERSION_FLAG } from "./help.ts";
import { log } from "./log.ts";

const NO_TOPIC = 3;

/** Runs one command line (without program names) and returns the exit code. */
export async function crictl(argv: readonly string[], shell: Shell): Promise<number> {
  try {
    await run(argv, shell);
    return 0;
  } catch (error) {
    if (error instanceof ExitError) {
      if (error.message !== "") shell.stderr.write(`${error.message}\n`);
      return error.exitCode;
    }
    const expected = [CrictlError, CallError, DaemonUnreachable, Failure].some((kind) => error instanceof kind);
    if (!expected && !(error instanceof Error && "code" in error)) throw error;
    log(shell, "error", messageOf(error));
    return 1;
  }
}

async function run(argv: readonly string[], shell: Shell): Promise<void> {
  const global = parseOrExplain(
    shell,
    () => parse([...GLOBAL_FLAGS, HELP_FLAG, VERSION_FLAG], argv, { shortOptions: false, env: shell.env }),
    everything,
  );
  const [name, ...rest] = global.args;
  if (global.bool("version")) return void shell.stdout.write(`crictl version ${VERSION}\n`);
  if (global.bool("help") || name === undefined) return void shell.stdout.write(everything());
  for (const refused of ["enable-tracing", "profile-cpu", "profile-mem"])
    if (global.isSet(refused))
      throw new CrictlError(`--${refused} is not supported: it measures crictl itself, as a Go program`);
  if (name === "help" || name === "h") return showHelp(shell, rest[0]);
  const command = named(COMMANDS, name);
  if (!command) throw new ExitError(`No help topic for '${name}'`, NO_TOPIC);
  const configFile = global.string("config");
  const settings = resolve(global, fileSettings(configFile, global.isSet("config"), name));
  using connections = new Connections(settings);
  const base = {
    shell,
    settings,
    configFile,
    all: COMMANDS,
    runtime: (timeoutMs?: number) => connections.runtime(timeoutMs),
    images: () => connections.images(),
    print: (text: string) => void shell.stdout.write(`${text}\n`),
    log: (level: Parameters<Context["log"]>[0], message: string) => {
      if (level !== "debug" || settings.debug) log(shell, level, message);
    },
  };
  await runCommand(base, command.name, command, rest);
}

const everything = (): string => appHelp(COMMANDS, GLOBAL_FLAGS, VERSION);

const named = (list: readonly CommandSpec[], name: string | undefined): CommandSpec | undefined =>
  list.find((each) => each.name === name || each.aliases?.includes(name ?? ""));

async function runCommand(
  base: Omit<Context, "flags" | "help">,
  path: string,
  command: CommandSpec,
  argv: readonly string[],
): Promise<void> {
  const { shell } = base;
  const full = () => commandHelp(path, command, true);
  const options = { shortOptions: command.shortOptions ?? false, env: shell.env };
  const flags = parseOrExplain(shell, () => parse([...(command.flags ?? []), HELP_FLAG], argv, options), full);
  if (flags.bool("help")) return void shell.stdout.write(commandHelp(path, command, false));
  const below = named(command.subcommands ?? [], flags.args[0]);
  if (below) return runCommand(base, `${path} ${below.name}`, below, flags.args.slice(1));
  await command.run({ ...base, flags, help: () => void shell.stdout.write(full()) });
}

function parseOrExplain(shell: Shell, work: () => Parsed, help: () => string): Parsed {
  try {
    return work();
  } catch (error) {
    if (error instanceof UsageError) shell.stdout.write(`Incorrect Usage: ${error.message}\n\n${help()}`);
    throw error;
  }
}

function showHelp(shell: Shell, name: string | undefined): void {
  if (name === undefined || name === "--help" || name === "-h") return void shell.stdout.write(everything());
  const command = named(COMMANDS, name);
  if (!command) throw new ExitError(`No help topic for '${name}'`, NO_TOPIC);
  shell.stdout.write(commandHelp(command.name, command, false));
}
