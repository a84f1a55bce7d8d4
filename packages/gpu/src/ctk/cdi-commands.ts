/** `cdi generate`, `cdi list`, `cdi transform root`. */
import { existsSync } from "node:fs";
import { readFile, writeFile } from "node:fs/promises";
import { basename, extname } from "node:path";
import { formatSpec, parseCdiSpec, Registry } from "@berth/cdi";
import { type Command, InvalidArgumentError, Option } from "commander";
import { type Side, withRoot } from "../generate/root.ts";
import { findProgram, hookProgram } from "../runtime/programs.ts";
import { configPath, loadConfig } from "../toolkit/config.ts";
import { type GenerateFlags, generateSpecs, MODES } from "./generate.ts";
import { flag, type GlobalFlags, type Io, list, listFlag, readAll, type Say } from "./options.ts";

export function addCdi(command: Command, io: Io, say: Say, global: () => GlobalFlags): void {
  const cdi = command.command("cdi").description("CDI specifications").helpCommand(false);
  addGenerate(cdi, io, say, global);
  addList(cdi, io, say);
  addTransform(cdi, io);
}

const PREFIX = "NVIDIA_CTK_CDI_GENERATE";
const FORMATS: Readonly<Record<string, string>> = { ".json": "json", ".yaml": "yaml", ".yml": "yaml" };

type Given = Omit<GenerateFlags, "driverRoot" | "nvidiaCdiHookPath"> & {
  readonly driverRoot?: string;
  readonly nvidiaCdiHookPath?: string;
  readonly output?: string;
  readonly format?: string;
};

function addGenerate(cdi: Command, io: Io, say: Say, global: () => GlobalFlags): void {
  cdi
    .command("generate")
    .description("Generate CDI specifications for use with CDI-enabled runtimes")
    .addOption(
      flag("--output <file>", "where to write it (default: standard output)", "NVIDIA_CTK_CDI_OUTPUT_FILE_PATH"),
    )
    .addOption(
      flag("--format <format>", "json or yaml (default: as the file's name says)", `${PREFIX}_OUTPUT_FORMAT`).argParser(
        formatOf,
      ),
    )
    .addOption(flag("--mode <mode>", `how GPUs are found: ${MODES.join(", ")}`, `${PREFIX}_MODE`).default("auto"))
    .addOption(
      listFlag(
        "--device-name-strategy <name>",
        "index, type-index, uuid (default: index, uuid)",
        `${PREFIX}_DEVICE_NAME_STRATEGIES`,
      ),
    )
    .addOption(
      flag(
        "--driver-root <dir>",
        "the root that the driver is installed in (default: as configured, else /)",
        "NVIDIA_CTK_DRIVER_ROOT",
      ),
    )
    .addOption(
      flag("--dev-root <dir>", "the root that has the device nodes (default: the driver's)", "NVIDIA_CTK_DEV_ROOT"),
    )
    .addOption(
      flag(
        "--nvidia-cdi-hook-path <file>",
        "the hook program, as the specification names it (default: nvidia-cdi-hook of PATH, else berth's)",
        "NVIDIA_CTK_CDI_HOOK_PATH",
      ),
    )
    .addOption(flag("--ldconfig-path <file>", "ldconfig, as the specification names it", `${PREFIX}_LDCONFIG_PATH`))
    .addOption(flag("--vendor <name>", "of the kind", `${PREFIX}_VENDOR`).default("nvidia.com"))
    .addOption(flag("--class <name>", "of the kind", `${PREFIX}_CLASS`).default("gpu"))
    .addOption(listFlag("--disable-hook <name>", 'a hook to leave out, or "all"', `${PREFIX}_DISABLED_HOOKS`))
    .addOption(listFlag("--enable-hook <name>", "a hook to make all the same", `${PREFIX}_ENABLED_HOOKS`))
    .addOption(
      listFlag(
        "--device-id <id>",
        "only this GPU or MIG device: an index, a UUID, all, none (default: all)",
        `${PREFIX}_DEVICE_IDS`,
      ),
    )
    .addOption(listFlag("--feature-flag <name>", "of how it is generated", `${PREFIX}_FEATURE_FLAGS`))
    .addOption(listFlag("--csv.file <file>", "of a Tegra system", `${PREFIX}_CSV_FILES`))
    .addOption(listFlag("--csv.ignore-pattern <pattern>", "of links to leave out", `${PREFIX}_CSV_IGNORE_PATTERNS`))
    .addOption(
      flag(
        "--csv.compat-container-root <dir>",
        "where images for an Orin have newer CUDA libraries",
        `${PREFIX}_CSV_CONTAINER_COMPAT_ROOT`,
      ),
    )
    .addOption(
      listFlag(
        "--library-search-path <dir>",
        "where libraries are looked for in place of the usual directories; on WSL, the driver's",
        `${PREFIX}_LIBRARY_SEARCH_PATHS`,
      ),
    )
    .addOption(
      listFlag(
        "--config-search-path <dir>",
        "where configuration is looked for in place of the usual directories",
        `${PREFIX}_CONFIG_SEARCH_PATHS`,
      ),
    )
    .addOption(flag("--no-all-device", "no device `all` of all the others", `${PREFIX}_NO_ALL_DEVICE`))
    .action((given: Given) => generate(given, io, say, global()));
}

function formatOf(text: string): string {
  const format = text.toLowerCase();
  if (format !== "json" && format !== "yaml") throw new InvalidArgumentError("it is json or yaml");
  return format;
}

async function generate(given: Given, io: Io, say: Say, { config }: GlobalFlags): Promise<void> {
  const { output = "", format } = given;
  const named = FORMATS[extname(output).toLowerCase()];
  if (format !== undefined && named !== undefined && format !== named)
    say(`Requested output format "${format}" does not match format implied by output file name: "${named}"`);
  const flags: GenerateFlags = {
    ...given,
    driverRoot: given.driverRoot || configuredRoot(config) || "/",
    nvidiaCdiHookPath: hookPath(given.nvidiaCdiHookPath),
  };
  for (const { spec, infix } of generateSpecs(flags, say)) {
    const text = formatSpec(spec, `.${format ?? named ?? "yaml"}`);
    if (output === "") io.stdout.write(text);
    else await writeFile(withInfix(output, infix), text, { mode: 0o644 });
    say(`Generated CDI spec with version ${spec.cdiVersion}`);
  }
}

function configuredRoot(file: string | undefined): string {
  return loadConfig(file || configPath(process.env)).get("nvidia-container-cli.root");
}

/** A path as it is; a name is looked for. */
function hookPath(given: string | undefined): string {
  if (given?.startsWith("/")) return given;
  if (given !== undefined && basename(given) === "nvidia-ctk")
    return findProgram([given], process.env["PATH"]) ?? "/usr/bin/nvidia-ctk";
  return hookProgram(given || "nvidia-cdi-hook", process.env["PATH"]);
}

/** nvidia.yaml → nvidia.coherent.yaml */
function withInfix(file: string, infix: string): string {
  const extension = extname(file);
  return `${file.slice(0, file.length - extension.length)}${infix}${extension}`;
}

function addList(cdi: Command, io: Io, say: Say): void {
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

interface TransformFlags {
  readonly from: string;
  readonly to: string;
  readonly input: string;
  readonly output: string;
  readonly relativeTo: Side;
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
    .action(async ({ from, to, input, output, relativeTo }: TransformFlags) => {
      const isFile = input !== "-";
      const text = isFile ? await readFile(input, "utf8") : await readAll(io.stdin);
      const spec = withRoot(parseCdiSpec(text, isFile ? input : undefined), relativeTo, from, to);
      const out = formatSpec(spec, extname(output));
      if (output === "") io.stdout.write(out);
      else await writeFile(output, out, { mode: existsSync(output) ? undefined : 0o644 });
    });
}
