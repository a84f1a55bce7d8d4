/** The `berth-ctk` command: nvidia-ctk's commands, flags and environment. */
import { Command, CommanderError } from "commander";
import { canonical } from "./canonical.ts";
import { addCdi } from "./cdi-commands.ts";
import { flag, type GlobalFlags, type Io, type Say } from "./options.ts";
import { addConfig, addRuntime } from "./settings-commands.ts";
import { addSystem } from "./system-commands.ts";

/** Exit status. */
export async function ctk(argv: readonly string[], io: Io): Promise<number> {
  try {
    await program(io).parseAsync(canonical(argv), { from: "user" });
    return 0;
  } catch (error) {
    if (error instanceof CommanderError) return error.code === "commander.help" ? 0 : error.exitCode;
    io.stderr.write(`berth-ctk: ${(error as Error).message}\n`);
    return 1;
  }
}

function program(io: Io): Command {
  const command = new Command("berth-ctk")
    .description("Makes NVIDIA GPUs ready for containers: CDI specifications, container engines, device nodes.")
    .version("NVIDIA Container Toolkit CLI version berth 0.1.0", "-v, --version", "print the version")
    .addOption(flag("-d, --debug", "accepted for nvidia-ctk's sake", "NVIDIA_CTK_DEBUG"))
    .addOption(flag("--quiet", "say only what went wrong", "NVIDIA_CTK_QUIET"))
    .addOption(
      flag("--config <file>", "the toolkit's configuration (default: at its usual place)", "NVIDIA_CTK_CONFIG"),
    )
    .enablePositionalOptions()
    .exitOverride()
    .configureOutput({ writeOut: (text) => io.stdout.write(text), writeErr: (text) => io.stderr.write(text) });
  const global = (): GlobalFlags => command.opts<GlobalFlags>();
  const say: Say = (text) => {
    if (global().quiet !== true) io.stderr.write(`${text}\n`);
  };
  addCdi(command, io, say, global);
  addSystem(command, say);
  addConfig(command, io, global);
  addRuntime(command, io, say);
  command
    .command("info")
    .description("Provide information about the system: nothing, as nvidia-ctk")
    .action(() => {});
  addHook(command);
  return command;
}

function addHook(command: Command): void {
  command
    .command("hook")
    .description("CDI hooks: run by the program cdi-hook, which may be installed as nvidia-ctk and nvidia-cdi-hook")
    .allowUnknownOption()
    .passThroughOptions()
    .argument("[args...]")
    .action((args: string[]) => {
      const program = new URL("../../../../.build/native/cdi-hook", import.meta.url).pathname;
      process.execve?.(program, ["nvidia-cdi-hook", ...args], process.env);
    });
}
