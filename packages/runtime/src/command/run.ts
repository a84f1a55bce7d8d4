/** One command line: which command is meant, its flags, and what becomes of its failure. */
import { chmodSync, mkdirSync } from "node:fs";
import { resolve } from "node:path";
import { getSystemErrorMessage } from "node:util";
import type { Front } from "@berth/kernel";
import { StateDirectory } from "../state/record.ts";
import { COMMANDS, GLOBAL_FLAGS, type CommandSpec } from "./commands.ts";
import { CommandError, UsageError } from "./failure.ts";
import { parseFlags, type Flags } from "./flags.ts";
import { Log, writeAll } from "./log.ts";

const DEFAULT_ROOT = "/run/runc";
const STDOUT = 1;
const STDERR = 2;
/** What runc exits with for a command that it does not know. */
const UNKNOWN_COMMAND = 3;
const HELP_FLAGS = [{ name: "help", short: "h", kind: "boolean", usage: "show help" }] as const;
const VERSION_FLAG = { name: "version", short: "v", kind: "boolean", usage: "print the version" } as const;

/** Runs a command line (without program names), and ends this process. */
export async function main(argv: readonly string[]): Promise<void> {
  const status = await run(argv);
  // All has been written: what Node winds up behind this is nobody's gain, and everybody's time.
  if (opened === undefined) process.exit(status);
  opened.end(status);
}

/** Runs a command line (without program names) and returns the exit status. */
export async function run(argv: readonly string[]): Promise<number> {
  let log = new Log(undefined, "text", false);
  try {
    const { flags: global, args } = parseFlags(argv, [...GLOBAL_FLAGS, ...HELP_FLAGS, VERSION_FLAG], true);
    log = openLog(global);
    const [name, ...rest] = args;
    if (global.boolean("version")) return await showVersion();
    if (name === undefined || name === "help" || name === "h" || global.boolean("help")) return await showHelp(rest[0]);
    const command = COMMANDS.find((one) => one.name === name);
    if (command === undefined) throw new CommandError(`No help topic for '${name}'`, { exitCode: UNKNOWN_COMMAND });
    return await runCommand(command, rest, global, log);
  } catch (error) {
    return await report(error, log, undefined);
  }
}

async function runCommand(spec: CommandSpec, argv: readonly string[], global: Flags, log: Log): Promise<number> {
  try {
    const { flags, args } = parseFlags(argv, [...spec.flags, ...HELP_FLAGS], spec.stopAtFirst === true);
    if (flags.boolean("help")) return await showHelp(spec.name);
    checkArguments(spec, args);
    const states = new StateDirectory(await stateRoot(global));
    const { command } = await spec.load();
    const out = (text: string) => writeAll(STDOUT, text);
    const status = await command.run({ flags, args, global, states, log, front, out });
    return status ?? 0;
  } catch (error) {
    return await report(error, log, spec);
  }
}

let opened: Front | undefined;

async function front(): Promise<Front> {
  const fd = process.env.BERTH_RUNC_CHANNEL;
  if (fd === undefined) throw new CommandError("this program is started by bin/berth-runc");
  const { Front: Channel } = await import("./front.ts");
  opened = new Channel(Number(fd));
  return opened;
}

function openLog(global: Flags): Log {
  const format = global.text("log-format") || "text";
  if (format !== "text" && format !== "json") throw new CommandError(`invalid log-format: ${format}`);
  return new Log(global.text("log") || undefined, format, global.boolean("debug"));
}

/** Absolute; of an ordinary user below XDG_RUNTIME_DIR. Throws CommandError for "/". */
async function stateRoot(global: Flags): Promise<string> {
  const given = global.text("root");
  const root = resolve(given === "" ? await defaultRoot() : given);
  if (root === "/") throw new CommandError("Option --root argument should not be set to /");
  return root;
}

async function defaultRoot(): Promise<string> {
  const { XDG_RUNTIME_DIR: runtime } = process.env;
  if (runtime === undefined || runtime === "") return DEFAULT_ROOT;
  const { ownsRuntimeDirectory } = await import("./rootless.ts");
  if (!ownsRuntimeDirectory()) return DEFAULT_ROOT;
  const root = resolve(runtime, "runc");
  // The sticky bit keeps what cleans that directory by age away (XDG Base Directory Specification).
  mkdirSync(root, { recursive: true, mode: 0o700 });
  chmodSync(root, 0o1700);
  return root;
}

function checkArguments({ name, args: { least, most } }: CommandSpec, args: readonly string[]): void {
  const subject = `${process.env.BERTH_RUNC_NAME ?? "berth-runc"}: ${JSON.stringify(name)} requires`;
  if (most === least && args.length !== least) throw new UsageError(`${subject} exactly ${least} argument(s)`);
  if (args.length < least) throw new UsageError(`${subject} a minimum of ${least} argument(s)`);
  if (most !== undefined && args.length > most) throw new UsageError(`${subject} a maximum of ${most} argument(s)`);
}

async function showHelp(name: string | undefined): Promise<number> {
  const { commandHelp, globalHelp } = await import("./help.ts");
  const { versionText } = await import("./version.ts");
  const spec = COMMANDS.find((one) => one.name === name);
  if (name !== undefined && spec === undefined)
    throw new CommandError(`No help topic for '${name}'`, { exitCode: UNKNOWN_COMMAND });
  writeAll(
    STDOUT,
    spec === undefined ? globalHelp(await versionText(), COMMANDS, GLOBAL_FLAGS) : commandHelp(spec, GLOBAL_FLAGS),
  );
  return 0;
}

async function showVersion(): Promise<number> {
  const { versionText } = await import("./version.ts");
  writeAll(STDOUT, `berth-runc version ${await versionText()}`);
  return 0;
}

/** To the log, and where that is a file to standard error too. */
async function report(error: unknown, log: Log, spec: CommandSpec | undefined): Promise<number> {
  if (error instanceof UsageError) return await reportUsage(error, log, spec);
  const known = error instanceof Error && isExpected(error);
  const text = !(error instanceof Error) ? String(error) : known ? messageOf(error) : (error.stack ?? error.message);
  const blame = error instanceof Error && error.name === "PlanError" ? "invalid configuration: " : "";
  say(log, `${spec?.failure ?? ""}${blame}${text}`);
  return error instanceof CommandError && error.exitCode !== 1 ? error.exitCode : (spec?.failureStatus ?? 1);
}

/** Flags that do not fit get the help, on standard output; arguments that do not are told. */
async function reportUsage({ message, detail }: UsageError, log: Log, spec: CommandSpec | undefined): Promise<number> {
  writeAll(detail === "" ? STDOUT : STDERR, `Incorrect Usage${detail === "" ? "." : `: ${detail}`}\n\n`);
  if (detail !== "") await showHelp(spec?.name);
  say(log, message);
  return 1;
}

function say(log: Log, message: string): void {
  log.error(message);
  if (!log.toStderr) writeAll(STDERR, `${message}\n`);
}

/** strerror(3)'s, where libuv has others. */
const REASONS: Readonly<Record<string, string>> = { EEXIST: "file exists", EISDIR: "is a directory" };

/** What the system refused in the words that runc has for it: "open /x: no such file or directory". */
function messageOf(error: Error): string {
  const { syscall, code = "", errno, path, dest } = error as NodeJS.ErrnoException & { readonly dest?: string };
  if (syscall === undefined || errno === undefined || path === undefined) return error.message;
  return `${syscall} ${dest ?? path}: ${REASONS[code] ?? getSystemErrorMessage(errno)}`;
}

/** What a configuration, the machine or the caller is to blame for; anything else is a fault of berth's and comes with its stack. */
function isExpected(error: Error): boolean {
  return error instanceof CommandError || EXPECTED.has(error.name) || "code" in error;
}

const EXPECTED = new Set(["PlanError", "OrderError", "ResourceError", "SeccompError"]);
