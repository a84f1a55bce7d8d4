/** `system create-dev-char-symlinks`, `system create-device-nodes`. */
import type { Command } from "commander";
import { createDevCharSymlinks, type DevCharFlags } from "./dev-char.ts";
import { createDeviceNodes, type DeviceNodesFlags } from "./device-nodes.ts";
import { flag, type Say } from "./options.ts";

export function addSystem(command: Command, say: Say): void {
  const system = command.command("system").description("Of the machine itself").helpCommand(false);
  system
    .command("create-dev-char-symlinks")
    .description("Create symlinks to the driver's device nodes in /dev/char")
    .addOption(flag("--dev-char-path <dir>", "where the links are made", "DEV_CHAR_PATH").default("/dev/char"))
    .addOption(flag("--driver-root <dir>", "whose /dev has the nodes (default: /)", "NVIDIA_DRIVER_ROOT"))
    .addOption(flag("--create-all", "for every node that there can be, also where it is not there yet", "CREATE_ALL"))
    .addOption(
      flag("--load-kernel-modules", "load the driver's modules first (with --create-all)", "LOAD_KERNEL_MODULES"),
    )
    .addOption(
      flag("--create-device-nodes", "make the nodes that all GPUs share (with --create-all)", "CREATE_DEVICE_NODES"),
    )
    .addOption(flag("--dry-run", "only say what would be done", "DRY_RUN"))
    .action((flags: DevCharFlags & { driverRoot?: string }) =>
      createDevCharSymlinks({ ...flags, driverRoot: flags.driverRoot ?? rootOf(["DRIVER_ROOT"]) }, say),
    );
  system
    .command("create-device-nodes")
    .description("Create NVIDIA device nodes")
    .option("--root <dir>", "the root that the modules are loaded from; also --driver-root (default: /)")
    .addOption(flag("--dev-root <dir>", "the root whose /dev gets the nodes (default: the other)", "NVIDIA_DEV_ROOT"))
    .option("--control-devices", "create the nodes that all GPUs share")
    .option("--load-kernel-modules", "load the driver's modules first")
    .addOption(flag("--dry-run", "only say what would be done", "DRY_RUN"))
    .action((flags: DeviceNodesFlags & { root?: string }) =>
      createDeviceNodes(
        {
          ...flags,
          root: flags.root ?? rootOf(["ROOT", "NVIDIA_DRIVER_ROOT", "DRIVER_ROOT"]),
          devRoot: flags.devRoot ?? process.env["DEV_ROOT"],
        },
        say,
      ),
    );
}

/** A flag has one variable; nvidia-ctk's has several. */
function rootOf(variables: readonly string[]): string {
  return variables.map((name) => process.env[name]).find((value) => value) ?? "/";
}
