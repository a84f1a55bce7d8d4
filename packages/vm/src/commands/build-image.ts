/** berth-vm build-image. */
import { type Command, Option } from "commander";
import { type BuildOptions, buildImage, type Compression } from "../image/build.ts";
import type { Context } from "./context.ts";
import { BOSUN } from "./node.ts";

export function addBuildImage(command: Command, context: Context): void {
  command
    .command("build-image")
    .description("make the guest's kernel and initramfs: a kernel's own, the modules that devices need, and bosun")
    .option("--kernel <file>", "default: the newest of /boot that is made for virtual machines")
    .option("--modules <dir>", "default: /lib/modules of the kernel's version")
    .option("--bosun <file>", "the guest's /init", BOSUN)
    .option("--agent <file>", "Kata's agent, statically linked, to be PID 1 in bosun's place")
    .option("-o, --output <dir>", "default: --image")
    .option("--debug-console [file]", "with a static busybox, for berth-vm exec")
    .addOption(new Option("--compression <kind>", "of the initramfs").choices(["zstd", "gzip", "none"]).default("zstd"))
    .action(async (options: Partial<BuildOptions> & { bosun: string; compression: Compression }) => {
      const output = options.output ?? context.options.image;
      const made = await buildImage({ ...options, output });
      context.print(
        `${output}: Linux ${made.kernelRelease}, ${made.modules.length} modules, ${made.initrdSize} bytes unpacked`,
      );
      for (const [name, parameters] of Object.entries(made.verity))
        context.print(`${name}: kernel_verity_params = "${parameters}"`);
      if (made.absent.length > 0) context.print(`this kernel has no ${made.absent.join(", ")}`);
    });
}
