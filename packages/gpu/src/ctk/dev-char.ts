/**
 * `system create-dev-char-symlinks`: /dev/char/MAJOR:MINOR for the driver's device nodes, which udev does not make for them. systemd
 * looks devices up there: without the links, a daemon-reload takes running containers' GPUs away.
 */
import { globSync, lstatSync } from "node:fs";
import { mkdir, symlink } from "node:fs/promises";
import { basename, join } from "node:path";
import { nodeNumber } from "../generate/nodes.ts";

const PATTERNS = ["/dev/nvidia*", "/dev/nvidia-caps/nvidia-*"];
/** Of other parts of the driver. */
const OTHERS = ["nvidia-fs", "nvidia-nvswitch", "nvidia-nvlink"];

export interface DevCharFlags {
  readonly devCharPath: string;
  readonly driverRoot: string;
  readonly dryRun?: boolean;
}

/** Links that are there already stay as they are. */
export async function createDevCharSymlinks(flags: DevCharFlags, say: (text: string) => void): Promise<void> {
  const root = flags.driverRoot.replace(/\/+$/, "");
  const nodes = PATTERNS.flatMap((pattern) => globSync(`${root}${pattern}`).sort()).filter(
    (path) => !OTHERS.some((prefix) => basename(path).startsWith(prefix)) && lstatSync(path).isCharacterDevice(),
  );
  if (nodes.length === 0) return say(`No NVIDIA devices found in ${root || "/"}`);
  if (!flags.dryRun) await mkdir(flags.devCharPath, { recursive: true });
  for (const path of nodes) {
    const { major, minor } = nodeNumber(lstatSync(path).rdev);
    const link = join(flags.devCharPath, `${major}:${minor}`);
    say(`Creating link ${link} => ${path}`);
    if (flags.dryRun) continue;
    await symlink(path, link).catch((error: NodeJS.ErrnoException) => {
      if (error.code !== "EEXIST") throw error;
      say(`Link ${link} is there already`);
    });
  }
}
