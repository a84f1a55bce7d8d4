/** The `berth-vm` command: kata-runtime's commands, kata-monitor, and the making of guest images. */
import { appendFileSync } from "node:fs";
import { Command, CommanderError, Option } from "commander";
import { DEFAULT_PATHS } from "../configuration/settings.ts";
import { VmError } from "../errors.ts";
import { DEFAULT_IMAGE_DIRECTORY } from "../image/build.ts";
import { addBuildImage } from "./build-image.ts";
import { addCheck } from "./check.ts";
import { addDirectVolumes } from "./direct-volume.ts";
import { Context, type GlobalOptions, type Io } from "./context.ts";
import { addEnv } from "./env.ts";
import { addExec } from "./exec.ts";
import { addFactory } from "./factory.ts";
import { addIptables } from "./iptables.ts";
import { addMetrics } from "./metrics.ts";
import { addMonitor } from "./monitor.ts";
import { addPolicy } from "./policy.ts";
import { addVersion, versionText } from "./version.ts";

/** Exit status. */
export async function berthVm(argv: readonly string[], io: Io): Promise<number> {
  // As kata-runtime has it: an option that is a command.
  if (argv.some((word) => /^--(kata-)?show-default-config-paths$/.test(word))) {
    io.stdout.write(`${DEFAULT_PATHS.join("\n")}\n`);
    return 0;
  }
  const command = program(io);
  try {
    await command.parseAsync(argv, { from: "user" });
    return 0;
  } catch (error) {
    if (error instanceof CommanderError)
      return error.code.startsWith("commander.help") || error.code === "commander.version" ? 0 : error.exitCode;
    if (!(error instanceof VmError)) throw error;
    noted(command, error);
    io.stderr.write(`berth-vm: ${error.message}\n`);
    return 1;
  }
}

function program(io: Io): Command {
  const command = new Command("berth-vm")
    .description("Virtual machines of pods: guest images, and what kata-runtime and kata-monitor tell")
    .version(versionText(), "-v, --version", "print the version")
    .option("--config <file>", "configuration file; default: KATA_CONF_FILE, then the default paths")
    .addOption(new Option("--kata-config <file>", "the same, by kata-runtime's name").hideHelp())
    .option("--log <file>", "the file that errors are written to as well", "/dev/null")
    .addOption(new Option("--log-format <format>", "of that file").choices(["text", "json"]).default("text"))
    .option("--state <dir>", "berthd's state directory", "/run/berth")
    .option("--image <dir>", "where the guest's kernel and initramfs are", DEFAULT_IMAGE_DIRECTORY)
    .option(
      "--show-default-config-paths",
      "print the default configuration files; also --kata-show-default-config-paths",
    )
    .addOption(new Option("--rootless <when>", "taken for kata-runtime's sake").default("auto").hideHelp())
    .addOption(new Option("--root <dir>", "taken for kata-runtime's sake").hideHelp())
    .addOption(new Option("--systemd-cgroup", "taken for kata-runtime's sake").hideHelp())
    .exitOverride()
    .configureOutput({
      writeOut: (text) => void io.stdout.write(text),
      writeErr: (text) => void io.stderr.write(text),
    });
  command.hook("preAction", () => checkRootless(command));
  const context = new Context(io, () => command.opts<GlobalOptions>());
  for (const add of COMMANDS) add(command, context);
  return command;
}

/** Each registers itself, in the order of the help. */
const COMMANDS: readonly ((command: Command, context: Context) => void)[] = [
  addBuildImage,
  addCheck,
  addDirectVolumes,
  addEnv,
  addExec,
  addFactory,
  addIptables,
  addMetrics,
  addMonitor,
  addPolicy,
  addVersion,
];

/** Whoever runs it as another user than root is told by what fails then. */
function checkRootless(command: Command): void {
  const { rootless } = command.opts<{ rootless: string }>();
  if (!/^(auto|true|false|1|0|t|f)?$/i.test(rootless))
    throw new VmError("InvalidArgument", `--rootless: "${rootless}" is none of true, false, auto`);
}

/** In the file that --log names, in logrus' formats. */
function noted(command: Command, { message }: VmError): void {
  const { log, logFormat } = command.opts<{ log: string; logFormat: string }>();
  if (log === "/dev/null") return;
  const time = new Date().toISOString();
  const line =
    logFormat === "json"
      ? JSON.stringify({ level: "error", msg: message, name: "berth-vm", pid: process.pid, time })
      : `time="${time}" level=error msg=${JSON.stringify(message)} name=berth-vm pid=${process.pid}`;
  appendFileSync(log, `${line}\n`, { mode: 0o640 });
}
