/** Virtual machines for tests: a guest image of Debian's kernel and this checkout's bosun. */
import { execFileSync, spawnSync } from "node:child_process";
import { existsSync, mkdirSync, mkdtempSync, renameSync, rmSync } from "node:fs";
import { join } from "node:path";
import { buildImage } from "@berth/vm";
import { guestProblem } from "../guest/guest.ts";
import { checkout, run } from "./daemon.ts";

/** Why no machine can be started here; undefined where one can. */
export function vmProblem(): string | undefined {
  const problem = guestProblem();
  if (problem !== undefined) return problem;
  if (spawnSync("sh", ["-c", "command -v debugfs"]).status !== 0) return "no debugfs: install e2fsprogs";
  return undefined;
}

/** Debian's cloud kernel and its modules, out of the guests' root file system (tests/guest/build). */
async function debianKernel(): Promise<{ kernel: string; modules: string }> {
  const image = (await run([`${checkout}/tests/guest/build`])).trim().split("\n").at(-1) ?? "";
  const lib = join(image, "lib-modules");
  if (!existsSync(lib)) {
    const work = mkdtempSync(join(image, "lib-modules-"));
    try {
      execFileSync("debugfs", ["-R", `rdump /lib/modules ${work}`, `${image}/root.ext4`], { stdio: "pipe" });
      renameSync(join(work, "modules"), lib);
    } catch (error) {
      // Another test was faster.
      if (!existsSync(lib)) throw error;
    } finally {
      rmSync(work, { recursive: true, force: true });
    }
  }
  const [release = ""] = execFileSync("ls", [lib], { encoding: "utf8" }).trim().split("\n");
  return { kernel: `${image}/vmlinuz`, modules: join(lib, release) };
}

/** As `berth-vm build-image` makes one. */
export async function makeGuestImage(output: string): Promise<void> {
  mkdirSync(output, { recursive: true });
  await buildImage({ output, bosun: `${checkout}/.build/native/bosun`, ...(await debianKernel()) });
}
