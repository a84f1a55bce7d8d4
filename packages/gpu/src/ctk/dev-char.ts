/**
 * `system create-dev-char-symlinks`: /dev/char/MAJOR:MINOR for the driver's device nodes, which udev does not make for them. systemd
 * looks devices up there: without the links, a daemon-reload takes running containers' GPUs away.
 */
import { globSync, lstatSync } from "node:fs";
import { mkdir, symlink } from "node:fs/promises";
import { join } from "node:path";
import { deviceNumber } from "@berth/cdi";
import { isOfOtherPart } from "../generate/nodes.ts";
import { createDeviceNodes } from "./device-nodes.ts";
import { type NumberedNode, possibleNodes } from "./device-numbers.ts";

const PATTERNS = ["/dev/nvidia*", "/dev/nvidia-caps/nvidia-*"];

export interface DevCharFlags {
  readonly devCharPath: string;
  readonly driverRoot: string;
  /** Also for nodes that are not there yet. */
  readonly createAll?: boolean;
  readonly loadKernelModules?: boolean;
  readonly createDeviceNodes?: boolean;
  readonly dryRun?: boolean;
}

type Say = (text: string) => void;

/** Links that are there already stay as they are. */
export async function createDevCharSymlinks(flags: DevCharFlags, say: Say): Promise<void> {
  const root = flags.driverRoot.replace(/\/+$/, "");
  await prepare(flags, say);
  const nodes = flags.createAll ? possibleNodes() : existingNodes(root);
  if (nodes.length === 0) return say(`No NVIDIA devices found in ${root || "/"}`);
  if (!flags.dryRun) await mkdir(flags.devCharPath, { recursive: true });
  for (const { path, major, minor } of nodes) {
    const link = join(flags.devCharPath, `${major}:${minor}`);
    say(`Creating link ${link} => ${root}${path}`);
    if (flags.dryRun) continue;
    await symlink(`${root}${path}`, link).catch((error: NodeJS.ErrnoException) => {
      if (error.code !== "EEXIST") throw error;
      say(`Link ${link} is there already`);
    });
  }
}

async function prepare(flags: DevCharFlags, say: Say): Promise<void> {
  const { createAll, driverRoot: root, dryRun, loadKernelModules, createDeviceNodes: controlDevices } = flags;
  if (createAll) return await createDeviceNodes({ root, loadKernelModules, controlDevices, dryRun }, say);
  if (loadKernelModules) say("load-kernel-modules is only applicable when create-all is set; ignoring");
  if (controlDevices) say("create-device-nodes is only applicable when create-all is set; ignoring");
}

function existingNodes(root: string): NumberedNode[] {
  return PATTERNS.flatMap((pattern) => globSync(`${root}${pattern}`).sort())
    .filter((path) => !isOfOtherPart(path) && lstatSync(path).isCharacterDevice())
    .map((path) => ({ path: path.slice(root.length), ...deviceNumber(lstatSync(path).rdev) }));
}
