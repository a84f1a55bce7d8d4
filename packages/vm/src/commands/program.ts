/** The `berth-vm` command: kata-runtime's commands, and the making of guest images. */
import { Command, CommanderError, Option } from "commander";
import { DEFAULT_PATHS } from "../configuration/settings.ts";
import { VmError } from "../errors.ts";
import { type BuildOptions, buildImage, type Compression, DEFAULT_IMAGE_DIRECTORY } from "../image/build.ts";
import { check } from "./check.ts";
import { Context, type GlobalOptions, type Io } from "./context.ts";
import { env } from "./env.ts";
import { addFactory } from "./factory.ts";
import { metrics } from "./metrics.ts";
import { BOSUN } from "./node.ts";

/** Exit status. */
export async function berthVm(argv: readonly string[], io: Io): Promise<number> {
  // As kata-runtime has it: an option that is a command.
  if (argv.some((word) => /^--(kata-)?show-default-config-paths$/.test(word))) {
    io.stdout.write(`${DEFAULT_PATHS.join("\n")}\n`);
    return 0;
  }
  try {
    await program(io).parseAsync(argv, { from: "user" });
    return 0;
  } catch (error) {
    if (error instanceof CommanderError)
      return error.code.startsWith("commander.help") || error.code === "commander.version" ? 0 : error.exitCode;
    if (!(error instanceof VmError)) throw error;
    io.stderr.write(`berth-vm: ${error.message}\n`);
    return 1;
  }
}

function program(io: Io): Command {
  const command = new Command("berth-vm")
    .description("Virtual machines of pods: guest images, and what kata-runtime tells")
    .option("--config <file>", "configuration file; default: KATA_CONF_FILE, then the default paths")
    .addOption(new Option("--kata-config <file>", "the same, by kata-runtime's name").hideHelp())
    .option(
      "--show-default-config-paths",
      "print the default configuration files; also --kata-show-default-config-paths",
    )
    .option("--state <dir>", "berthd's state directory", "/run/berth")
    .option("--image <dir>", "where the guest's kernel and initramfs are", DEFAULT_IMAGE_DIRECTORY)
    .exitOverride()
    .configureOutput({
      writeOut: (text) => void io.stdout.write(text),
      writeErr: (text) => void io.stderr.write(text),
    });
  const context = new Context(io, () => command.opts<GlobalOptions>());
  command
    .command("build-image")
    .description("make the guest's kernel and initramfs: a kernel's own, the modules that devices need, and bosun")
    .option("--kernel <file>", "default: the newest of /boot that is made for virtual machines")
    .option("--modules <dir>", "default: /lib/modules of the kernel's version")
    .option("--bosun <file>", "the guest's /init", BOSUN)
    .option("--agent <file>", "Kata's agent, statically linked, to be PID 1 in bosun's place")
    .option("-o, --output <dir>", "default: --image")
    .addOption(new Option("--compression <kind>", "of the initramfs").choices(["zstd", "gzip", "none"]).default("zstd"))
    .action(async (options: Partial<BuildOptions> & { bosun: string; compression: Compression }) => {
      const output = options.output ?? context.options.image;
      const made = await buildImage({ ...options, output });
      context.print(
        `${output}: Linux ${made.kernelRelease}, ${made.modules.length} modules, ${made.initrdSize} bytes unpacked`,
      );
      if (made.absent.length > 0) context.print(`this kernel has no ${made.absent.join(", ")}`);
    });
  command
    .command("check")
    .alias("kata-check")
    .description("tell whether pods can be virtual machines on this node")
    .option("-n, --no-network-checks", "taken for kata-runtime's sake: nothing is asked of a network")
    .option("-v, --verbose", "say what was found too")
    .option("-s, --strict", "a machine without hardware acceleration is a failure")
    .action(async (options: { verbose?: boolean; strict?: boolean }) => await check(context, options));
  command
    .command("env")
    .alias("kata-env")
    .description("print what the configuration and this node come to")
    .option("-j, --json", "as JSON")
    .action(async (options: { json?: boolean }) => await env(context, options.json === true));
  command
    .command("metrics <sandbox>")
    .description("print a pod's machine's metrics")
    .action(async (sandbox: string) => await metrics(context, sandbox));
  addFactory(command, context);
  for (const [name, why] of REFUSED)
    command
      .command(name, { hidden: true })
      .allowUnknownOption(true)
      .allowExcessArguments(true)
      .action(() => {
        throw new VmError("Unsupported", `${name}: ${why}`);
      });
  return command;
}

/** kata-runtime's other commands. */
const REFUSED: readonly (readonly [name: string, why: string])[] = [
  ["exec", "the guest has no shell; run one in a container of the pod: crictl exec"],
  ["direct-volume", "volumes are the kubelet's directories, which the machine shares"],
  ["iptables", "a pod's rules are set by its containers"],
  ["policy", "the guest takes orders from berthd alone, and has no policy of its own"],
];
