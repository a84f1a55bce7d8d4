/** The `berth-ctk` command: nvidia-ctk's commands, flags and environment, as far as they are here. */
import { existsSync } from "node:fs";
import { readFile, writeFile } from "node:fs/promises";
import { extname } from "node:path";
import { formatSpec, parseCdiSpec, Registry } from "@berth/cdi";
import { Command, CommanderError, Option } from "commander";
import { type Side, withRoot } from "../generate/root.ts";
import { changedConfig, type ConfigFlags, defaultConfig } from "./config.ts";
import { createDevCharSymlinks, type DevCharFlags } from "./dev-char.ts";
import { configureRuntime, type ConfigureFlags } from "./runtime-configure.ts";
import { type GenerateFlags, generateSpec, MODES } from "./generate.ts";

export interface Io {
  readonly stdout: { write(text: string): unknown };
  readonly stderr: { write(text: string): unknown };
  readonly stdin: AsyncIterable<Buffer | string>;
}

/** Exit status. */
export async function ctk(argv: readonly string[], io: Io): Promise<number> {
  try {
    await program(io).parseAsync(argv, { from: "user" });
    return 0;
  } catch (error) {
    if (error instanceof CommanderError) return error.code === "commander.help" ? 0 : error.exitCode;
    io.stderr.write(`berth-ctk: ${(error as Error).message}\n`);
    return 1;
  }
}

function program(io: Io): Command {
  const command = new Command("berth-ctk")
    .description("Makes NVIDIA GPUs ready for containers: CDI specifications of the GPUs of this machine.")
    .option("-d, --debug", "accepted for nvidia-ctk's sake")
    .option("--quiet", "say only what went wrong")
    .exitOverride()
    .configureOutput({ writeOut: (text) => io.stdout.write(text), writeErr: (text) => io.stderr.write(text) });
  const cdi = command.command("cdi").description("CDI specifications").helpCommand(false);
  const say = (text: string): void => {
    if (command.opts<{ quiet?: boolean }>().quiet !== true) io.stderr.write(`${text}\n`);
  };
  addGenerate(cdi, io, say);
  addList(cdi, io, say);
  addTransform(cdi, io);
  addSystem(command, say);
  addConfig(command, io);
  addRuntime(command, io, say);
  command
    .command("hook")
    .description("CDI hooks: run by the program cdi-hook, which may be installed as nvidia-ctk and nvidia-cdi-hook")
    .allowUnknownOption()
    .argument("[args...]")
    .action((args: string[]) => {
      const program = new URL("../../../../.build/native/cdi-hook", import.meta.url).pathname;
      process.execve?.(program, ["nvidia-cdi-hook", ...args], process.env);
    });
  return command;
}

const list = (text: string, before: readonly string[] | undefined): string[] => [...(before ?? []), ...text.split(",")];
const flag = (flags: string, about: string, variable: string): Option => new Option(flags, about).env(variable);

function addGenerate(cdi: Command, io: Io, say: (text: string) => void): void {
  const prefix = "NVIDIA_CTK_CDI_GENERATE";
  cdi
    .command("generate")
    .description("Generate CDI specifications for use with CDI-enabled runtimes")
    .addOption(
      flag("--output <file>", "where to write it (default: standard output)", "NVIDIA_CTK_CDI_OUTPUT_FILE_PATH"),
    )
    .addOption(flag("--format <format>", "json or yaml", `${prefix}_OUTPUT_FORMAT`).choices(["json", "yaml"]))
    .addOption(flag("--mode <mode>", `how GPUs are found: ${MODES.join(", ")}`, `${prefix}_MODE`).default("auto"))
    .addOption(
      flag(
        "--device-name-strategy <name>",
        "index, type-index, uuid; may be repeated (default: index, uuid)",
        `${prefix}_DEVICE_NAME_STRATEGIES`,
      ).argParser(list),
    )
    .addOption(
      flag("--driver-root <dir>", "the root that the driver is installed in", "NVIDIA_CTK_DRIVER_ROOT").default("/"),
    )
    .addOption(
      flag("--dev-root <dir>", "the root that has the device nodes (default: the driver's)", "NVIDIA_CTK_DEV_ROOT"),
    )
    .addOption(
      flag(
        "--nvidia-cdi-hook-path <file>",
        "the hook program, as the specification names it",
        "NVIDIA_CTK_CDI_HOOK_PATH",
      ).default("/usr/bin/nvidia-cdi-hook"),
    )
    .addOption(flag("--ldconfig-path <file>", "ldconfig, as the specification names it", `${prefix}_LDCONFIG_PATH`))
    .addOption(flag("--vendor <name>", "of the kind", `${prefix}_VENDOR`).default("nvidia.com"))
    .addOption(flag("--class <name>", "of the kind", `${prefix}_CLASS`).default("gpu"))
    .addOption(
      flag(
        "--disable-hook <name>",
        'a hook to leave out, or "all"; may be repeated',
        `${prefix}_DISABLED_HOOKS`,
      ).argParser(list),
    )
    .addOption(
      flag(
        "--device-id <id>",
        "only this GPU or MIG device: an index, a UUID, all, none; may be repeated (default: all)",
        `${prefix}_DEVICE_IDS`,
      ).argParser(list),
    )
    .addOption(
      flag("--enable-hook <name>", "a hook to make all the same; may be repeated", `${prefix}_ENABLED_HOOKS`).argParser(
        list,
      ),
    )
    .addOption(
      flag("--feature-flag <name>", "of how it is generated; may be repeated", `${prefix}_FEATURE_FLAGS`).argParser(
        list,
      ),
    )
    .addOption(flag("--csv.file <file>", "of a Tegra system; may be repeated", `${prefix}_CSV_FILES`).argParser(list))
    .addOption(
      flag("--csv.ignore-pattern <pattern>", "of links to leave out", `${prefix}_CSV_IGNORE_PATTERNS`).argParser(list),
    )
    .addOption(
      flag(
        "--csv.compat-container-root <dir>",
        "where an image has newer CUDA libraries",
        `${prefix}_CSV_CONTAINER_COMPAT_ROOT`,
      ),
    )
    .addOption(
      flag(
        "--library-search-path <dir>",
        "of the driver's files on WSL, where there are several drivers",
        `${prefix}_LIBRARY_SEARCH_PATHS`,
      ).argParser(list),
    )
    .addOption(
      flag(
        "--config-search-path <dir>",
        "where configuration is looked for in place of the usual directories; may be repeated",
        `${prefix}_CONFIG_SEARCH_PATHS`,
      ).argParser(list),
    )
    .addOption(flag("--no-all-device", "no device `all` of all the others", `${prefix}_NO_ALL_DEVICE`))
    .action(async (flags: GenerateFlags & { output?: string; format?: string }) => {
      const spec = generateSpec(flags);
      const named = { ".json": ".json", ".yaml": ".yaml", ".yml": ".yaml" }[extname(flags.output ?? "")];
      const text = formatSpec(spec, flags.format === undefined ? (named ?? ".yaml") : `.${flags.format}`);
      if (flags.output) await writeFile(flags.output, text, { mode: 0o644 });
      else io.stdout.write(text);
      say(`Generated CDI spec with version ${spec.cdiVersion}`);
    });
}

function addList(cdi: Command, io: Io, say: (text: string) => void): void {
  cdi
    .command("list")
    .description("List the available CDI devices")
    .addOption(
      flag(
        "--spec-dir <dir>",
        "directory of CDI specifications; may be repeated",
        "NVIDIA_CTK_CDI_SPEC_DIRS",
      ).argParser(list),
    )
    .action(async ({ specDir }: { specDir?: string[] }) => {
      const registry = await Registry.open({ dirs: specDir });
      for (const [file, errors] of registry.errors) for (const error of errors) say(`${file}: ${error.message}`);
      const names = registry.devices();
      say(`Found ${names.length} CDI devices`);
      io.stdout.write(names.map((name) => `${name}\n`).join(""));
    });
}

function addTransform(cdi: Command, io: Io): void {
  cdi
    .command("transform")
    .description("Apply a transform to a CDI specification")
    .helpCommand(false)
    .command("root")
    .description("Apply a root transform to a CDI specification")
    .requiredOption("--from <dir>", "the root to be transformed")
    .option("--to <dir>", "its replacement", "")
    .option("--input <file>", 'the specification; "-" for standard input', "-")
    .option("--output <file>", "where to write it (default: standard output)", "")
    .addOption(new Option("--relative-to <side>", "whose paths").choices(["host", "container"]).default("host"))
    .action(async (flags: { from: string; to: string; input: string; output: string; relativeTo: Side }) => {
      const isFile = flags.input !== "-";
      const text = isFile ? await readFile(flags.input, "utf8") : await readAll(io.stdin);
      const spec = withRoot(
        parseCdiSpec(text, isFile ? flags.input : undefined),
        flags.relativeTo,
        flags.from,
        flags.to,
      );
      const out = formatSpec(spec, extname(flags.output));
      if (flags.output === "") io.stdout.write(out);
      else await writeFile(flags.output, out, { mode: existsSync(flags.output) ? undefined : 0o644 });
    });
}

function addConfig(command: Command, io: Io): void {
  const show = (text: string | undefined): void => {
    if (text !== undefined) io.stdout.write(text);
  };
  const config = command
    .command("config")
    .description("Interact with the NVIDIA Container Toolkit configuration")
    .helpCommand(false)
    .option("-c, --config-file <file>", "the file (default: as nvidia-container-runtime finds it)")
    .addOption(new Option("--config <file>").hideHelp())
    .addOption(
      new Option(
        "--set <key=value>",
        "set a value; only a key switches it on; a list's parts are between colons",
      ).argParser((text: string, before: readonly string[] | undefined) => [...(before ?? []), ...text.split(",")]),
    )
    .addOption(new Option("--set-list-separator <text>").default(":").hideHelp())
    .option("-i, --in-place", "change the file itself")
    .option("-o, --output <file>", "where to write it (default: standard output)")
    .action(({ config: file, ...flags }: ConfigFlags & { config?: string }) =>
      show(changedConfig({ ...flags, configFile: flags.configFile ?? file }, process.env)),
    );
  config
    .command("default")
    .aliases(["create-default", "generate-default"])
    .description("Generate the default NVIDIA Container Toolkit configuration file")
    .option("-o, --output <file>", "where to write it (default: standard output)")
    .action((_flags: object, own: Command) => show(defaultConfig(own.optsWithGlobals<{ output?: string }>().output)));
}

function addRuntime(command: Command, io: Io, info: (text: string) => void): void {
  command
    .command("runtime")
    .description("Of container engines")
    .helpCommand(false)
    .command("configure")
    .description("Add a runtime to the specified container engine")
    .option("--runtime <name>", "berth, containerd, crio, docker", "docker")
    .option("--config <file>", "the engine's configuration (default: at its usual place)")
    .option("--drop-in-config <file>", "a file of its own for the runtime; empty: the engine's own file is changed")
    .option("--config-source <name>", "file", "file")
    .option("--config-mode <name>", "config-file")
    .option("--dry-run", "show the configuration, and write nothing")
    .option("--nvidia-runtime-name <name>", "what the runtime is called", "nvidia")
    .option("--nvidia-runtime-path <file>", "the program; also --runtime-path")
    .addOption(new Option("--runtime-path <file>").hideHelp())
    .option("--nvidia-set-as-default", "make it the default runtime; also --set-as-default")
    .addOption(new Option("--set-as-default").hideHelp())
    .option("--cdi.enabled", "enable CDI in the engine; also --enable-cdi")
    .addOption(new Option("--cdi.enable").hideHelp())
    .addOption(new Option("--enable-cdi").hideHelp())
    .action((flags: ConfigureFlags & RuntimeAliases) =>
      configureRuntime(withoutAliases(flags), {
        out: (text) => io.stdout.write(text),
        info,
        warn: (text) => io.stderr.write(`warning: ${text}\n`),
      }),
    );
}

/** nvidia-ctk's other names of the same flags. */
interface RuntimeAliases {
  readonly runtimePath?: string;
  readonly setAsDefault?: boolean;
  readonly "cdi.enable"?: boolean;
  readonly enableCdi?: boolean;
}

function withoutAliases(flags: ConfigureFlags & RuntimeAliases): ConfigureFlags {
  return {
    ...flags,
    nvidiaRuntimePath: flags.nvidiaRuntimePath ?? flags.runtimePath,
    nvidiaSetAsDefault: flags.nvidiaSetAsDefault ?? flags.setAsDefault,
    "cdi.enabled": flags["cdi.enabled"] ?? flags["cdi.enable"] ?? flags.enableCdi,
  };
}

function addSystem(command: Command, say: (text: string) => void): void {
  command
    .command("system")
    .description("Of the machine itself")
    .helpCommand(false)
    .command("create-dev-char-symlinks")
    .description("Create symlinks to the driver's device nodes in /dev/char")
    .addOption(flag("--dev-char-path <dir>", "where the links are made", "DEV_CHAR_PATH").default("/dev/char"))
    .addOption(flag("--driver-root <dir>", "whose /dev has the nodes", "NVIDIA_DRIVER_ROOT").default("/"))
    .addOption(flag("--dry-run", "only say what would be done", "DRY_RUN"))
    .action((flags: DevCharFlags) => createDevCharSymlinks(flags, say));
}

async function readAll(input: AsyncIterable<Buffer | string>): Promise<string> {
  const chunks: Buffer[] = [];
  for await (const chunk of input) chunks.push(Buffer.from(chunk));
  return Buffer.concat(chunks).toString("utf8");
}
