/** What a container of mode legacy asks for beside its GPUs: channels of IMEX, the right to divide GPUs, 32-bit libraries. */
import { existsSync } from "node:fs";
import { join } from "node:path";
import type { ContainerEdits } from "@berth/cdi/injection";
import { type Hand, O, type Order, S } from "@berth/kernel";
import { createDeviceNodes } from "../ctk/device-nodes.ts";
import { majorOfDriver } from "../ctk/device-numbers.ts";
import { Driver } from "../generate/driver.ts";
import { cacheHook, hookMaker } from "../generate/hooks.ts";
import { migMinors, nodeEdits } from "../generate/nodes.ts";
import { type Maker, makeSpec } from "../runtime/make.ts";
import type { ToolkitConfig } from "../toolkit/config.ts";
import type { Request } from "../toolkit/request.ts";
import { migDevices } from "./arguments.ts";

const CHANNELS = "nvidia-caps-imex-channels";
const EVERYBODY = 0o666;

export interface Beside {
  readonly request: Request;
  readonly config: ToolkitConfig;
  readonly capabilities: readonly string[];
}

/** Loads the driver where nothing of it is there yet, as --load-kmods asks. What fails is told, and the GPUs' absence is then the error. */
export async function loadDriver(config: ToolkitConfig, root: string, warn: (message: string) => void): Promise<void> {
  if (!config.get("nvidia-container-cli.load-kmods") || existsSync(`${root}/dev/nvidiactl`)) return;
  try {
    await createDeviceNodes({ root: root || "/", controlDevices: true, loadKernelModules: true }, () => {});
  } catch (error) {
    warn(`nvidia-container-cli.load-kmods: ${(error as Error).message}`);
  }
}

/** Rejects with Error for what a container that is not privileged may not ask for, and for a channel that is not there. */
export async function besideEdits(hand: Hand, wanted: Beside, maker: Maker): Promise<ContainerEdits[]> {
  const { request, config, capabilities } = wanted;
  const channels = [...new Set(request.imexChannels())].filter((channel) => channel !== "");
  if (channels.length > 0 && !config.get("features.disable-imex-channel-creation"))
    await makeChannels(hand, channels, maker.driverRoot);
  const imex = channels.length > 0 ? makeSpec("imex", channels, maker).devices : [];
  return [
    ...imex.map(({ containerEdits }) => containerEdits),
    ...(["CONFIG", "MONITOR"] as const).flatMap((kind) => migEdits(request, kind, maker.driverRoot)),
    ...(capabilities.includes("compat32") ? [compat32Edits(maker)] : []),
  ];
}

/** Those that are not there yet. */
async function makeChannels(hand: Hand, channels: readonly string[], root: string): Promise<void> {
  const missing = channels
    .map((channel) => ({ minor: Number(channel), path: `/dev/${CHANNELS}/channel${channel}` }))
    .filter(({ minor, path }) => Number.isSafeInteger(minor) && !existsSync(join(root, path)));
  if (missing.length === 0) return;
  const major = majorOfDriver(CHANNELS);
  const because = "NVIDIA_IMEX_CHANNELS";
  const dir = join(root, "/dev", CHANNELS);
  const made: Order[] = missing.map(({ path, minor }) => ({
    order: "mkdev",
    args: { root: 0, path, mode: S.IFCHR | EVERYBODY, major, minor, uid: 0, gid: 0 },
    because,
  }));
  await hand.run({
    orders: [
      { order: "mkdir", args: { path: dir, mode: 0o755, existOk: 1, parents: 1 }, because },
      { order: "open", args: { slot: 0, path: root || "/", flags: BigInt(O.PATH | O.DIRECTORY) }, because },
      ...made,
    ],
  });
}

/** The node by which GPUs are divided, or watched. */
function migEdits(request: Request, kind: "CONFIG" | "MONITOR", root: string): ContainerEdits[] {
  if (migDevices(request, kind) === "") return [];
  const minor = migMinors()?.get(kind.toLowerCase());
  if (minor === undefined)
    throw new Error(`NVIDIA_MIG_${kind}_DEVICES: the driver has no ${kind.toLowerCase()} capability`);
  return [nodeEdits(root, [`/dev/nvidia-caps/nvidia-cap${minor}`])];
}

/** Their links by soname are the linker's cache's to make. */
function compat32Edits({ driverRoot, hookPath, disabledHooks }: Maker): ContainerEdits {
  const mounts = new Driver(driverRoot).libraries32();
  if (mounts.length === 0) return {};
  return { mounts, hooks: cacheHook(hookMaker(hookPath, disabledHooks), mounts, undefined) };
}
