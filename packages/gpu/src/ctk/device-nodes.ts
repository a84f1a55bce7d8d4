/** `system create-device-nodes`: the driver's modules loaded, and the nodes made that all GPUs share. */
import { existsSync } from "node:fs";
import { join } from "node:path";
import { type Hand, O, type Order, S } from "@berth/kernel";
import { outputOf, withHand } from "../hand.ts";
import { controlNodes } from "./device-numbers.ts";

export interface DeviceNodesFlags {
  readonly root: string;
  readonly devRoot?: string | undefined;
  readonly controlDevices?: boolean | undefined;
  readonly loadKernelModules?: boolean | undefined;
  readonly dryRun?: boolean | undefined;
}

type Say = (text: string) => void;

const MODULES = ["nvidia", "nvidia-uvm", "nvidia-modeset"];
const EVERYBODY = 0o666;
const ROOT_SLOT = 0;

/** Nothing where no flag asks for anything. Rejects with Error naming the module, or the node that is in the way. */
export async function createDeviceNodes(flags: DeviceNodesFlags, say: Say): Promise<void> {
  const { root, devRoot = root, controlDevices, loadKernelModules, dryRun = false } = flags;
  if (!controlDevices && !loadKernelModules) return;
  if (dryRun) {
    if (loadKernelModules) for (const module of MODULES) say(`Running: ${modprobe(root, module).join(" ")}`);
    if (controlDevices)
      for (const { path, major, minor } of controlNodes())
        say(`Running: mknod --mode=0666 ${join(devRoot, path)} c ${major} ${minor}`);
    return;
  }
  await withHand(async (hand) => {
    if (loadKernelModules) for (const module of MODULES) await outputOf(hand, modprobe(root, module));
    if (controlDevices) await makeControlNodes(hand, devRoot, say);
  });
}

/** The root's own program, for the root's own modules. */
function modprobe(root: string, module: string): string[] {
  return [...(root === "/" || root === "" ? [] : ["chroot", root]), "/sbin/modprobe", module];
}

/** A node that is there has to be the same. */
async function makeControlNodes(hand: Hand, devRoot: string, say: Say): Promise<void> {
  const nodes = controlNodes();
  say(`Creating control device nodes at ${devRoot}`);
  for (const { path } of nodes)
    if (existsSync(join(devRoot, path))) say(`Skipping: ${join(devRoot, path)} already exists`);
  const because = "--control-devices";
  const orders = nodes.map(({ path, major, minor }): Order => ({
    order: "mkdev",
    args: { root: ROOT_SLOT, path, mode: S.IFCHR | EVERYBODY, major, minor, uid: 0, gid: 0 },
    because,
  }));
  const opened: Order = {
    order: "open",
    args: { slot: ROOT_SLOT, path: devRoot || "/", flags: BigInt(O.PATH | O.DIRECTORY) },
    because,
  };
  await hand.run({ orders: [opened, ...orders] });
}
