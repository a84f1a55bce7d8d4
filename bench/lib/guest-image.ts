/** A guest image for machines that are measured or tested: Debian's kernel out of the guests' root file system, and this checkout's bosun. */
import { execFileSync } from "node:child_process";
import { existsSync, mkdirSync, mkdtempSync, readdirSync, renameSync, rmSync } from "node:fs";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { buildImage, type BuildOptions } from "@berth/vm";
import { run } from "./process.ts";

const checkout = fileURLToPath(new URL("../..", import.meta.url)).replace(/\/$/, "");

/** As tests/guest/build has them. */
async function debianKernel(): Promise<{ kernel: string; modules: string }> {
  const image = (await run([`${checkout}/tests/guest/build`])).trim().split("\n").at(-1) ?? "";
  const lib = join(image, "lib-modules");
  if (!existsSync(lib)) {
    const work = mkdtempSync(join(image, "lib-modules-"));
    try {
      execFileSync("debugfs", ["-R", `rdump /lib/modules ${work}`, `${image}/root.ext4`], { stdio: "pipe" });
      renameSync(join(work, "modules"), lib);
    } catch (error) {
      // Another was faster.
      if (!existsSync(lib)) throw error;
    } finally {
      rmSync(work, { recursive: true, force: true });
    }
  }
  const [release = ""] = readdirSync(lib);
  return { kernel: `${image}/vmlinuz`, modules: join(lib, release) };
}

/** As `berth-vm build-image` makes one. `agent`: Kata's, to be PID 1. */
export async function makeGuestImage(
  output: string,
  agent?: string,
  more: Pick<BuildOptions, "debugConsole"> = {},
): Promise<void> {
  mkdirSync(output, { recursive: true });
  await buildImage({ output, bosun: `${checkout}/.build/native/bosun`, agent, ...(await debianKernel()), ...more });
}
