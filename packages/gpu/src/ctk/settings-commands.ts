/** `config` and `runtime configure`: the toolkit's configuration, and container engines'. */
import { type Command, Option } from "commander";
import { changedConfig, type ConfigFlags, defaultConfig } from "./config.ts";
import { type GlobalFlags, type Io, list, type Say } from "./options.ts";
import { configureRuntime, type ConfigureFlags } from "./runtime-configure.ts";

export function addConfig(command: Command, io: Io, global: () => GlobalFlags): void {
  const show = (text: string | undefined): void => {
    if (text !== undefined) io.stdout.write(text);
  };
  const config = command
    .command("config")
    .description("Interact with the NVIDIA Container Toolkit configuration")
    .helpCommand(false)
    .option("-c, --config-file <file>", "the file; also --config (default: as nvidia-container-runtime finds it)")
    .addOption(
      new Option(
        "--set <key=value>",
        "set a value; only a key switches it on; a list's parts are between colons",
      ).argParser(list),
    )
    .addOption(new Option("--set-list-separator <text>").default(":").hideHelp())
    .option("-i, --in-place", "change the file itself")
    .option("-o, --output <file>", "where to write it (default: standard output)")
    .action((flags: ConfigFlags) =>
      show(changedConfig({ ...flags, configFile: flags.configFile ?? global().config }, process.env)),
    );
  config
    .command("default")
    .aliases(["create-default", "generate-default"])
    .description("Generate the default NVIDIA Container Toolkit configuration file")
    .option("-o, --output <file>", "where to write it (default: standard output)")
    .action((_flags: object, own: Command) => show(defaultConfig(own.optsWithGlobals<{ output?: string }>().output)));
}

export function addRuntime(command: Command, io: Io, info: Say): void {
  command
    .command("runtime")
    .description("Of container engines")
    .helpCommand(false)
    .command("configure")
    .description("Add a runtime to the specified container engine")
    .option("--runtime <name>", "berth, containerd, crio, docker", "docker")
    .option("--config <file>", "the engine's configuration (default: at its usual place)")
    .option("--drop-in-config <file>", "a file of its own for the runtime; empty: the engine's own file is changed")
    .option("--config-source <name>", "file, or command: what the engine itself says of its configuration", "file")
    .option("--executable-path <file>", "the engine's program, for --config-source command")
    .option("--config-mode <name>", "config-file, or oci-hook: a hook of podman's and CRI-O's hook directories")
    .option("--oci-hook-path <file>", "where that hook is written (default: standard output)")
    .option("--nvidia-runtime-hook-path <file>", "the program of that hook", "/usr/bin/nvidia-container-runtime-hook")
    .option("--dry-run", "show the configuration, and write nothing")
    .option("--nvidia-runtime-name <name>", "what the runtime is called", "nvidia")
    .option("--nvidia-runtime-path <file>", "the program; also --runtime-path")
    .option("--nvidia-set-as-default", "make it the default runtime; also --set-as-default")
    .option("--cdi.enabled", "enable CDI in the engine; also --enable-cdi")
    .action((flags: ConfigureFlags) =>
      configureRuntime(flags, {
        out: (text) => io.stdout.write(text),
        info,
        warn: (text) => io.stderr.write(`warning: ${text}\n`),
      }),
    );
}
