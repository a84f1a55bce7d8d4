/** CDI specifications of what stands beside the GPUs: GPUDirect Storage and RDMA, GDRCopy, NVSwitch, channels of IMEX. */
import { existsSync, globSync, statSync } from "node:fs";
import { basename } from "node:path";
import { type CdiDevice, type CdiMount, type CdiSpec, CURRENT_VERSION } from "@berth/cdi/injection";
import { mountsBelow } from "./mounts.ts";
import { nodeEdits } from "./nodes.ts";
import { tidy } from "./tidy.ts";

export const GATED_MODES = ["gdrcopy", "gds", "mofed", "nvswitch"] as const;
export type GatedMode = (typeof GATED_MODES)[number];

const NODES: Readonly<Record<GatedMode, readonly string[]>> = {
  gdrcopy: ["/dev/gdrdrv"],
  gds: ["/dev/nvidia-fs*"],
  mofed: ["/dev/infiniband/uverbs*", "/dev/infiniband/rdma_cm"],
  nvswitch: ["/dev/nvidia-nvswitchctl", "/dev/nvidia-nvswitch*"],
};
const CHANNELS = "/dev/nvidia-caps-imex-channels/channel";
/** Of 20 bits, as a device node's minor number. */
const MAX_CHANNEL = 2 ** 20 - 1;

export interface GatedOptions {
  /** Without slashes at their ends. */
  readonly driverRoot: string;
  readonly devRoot: string;
  readonly kind: string;
}

/** One device, "all", of what there is; what is not there is left out. */
export function generateGated(mode: GatedMode, options: GatedOptions): CdiSpec {
  const edits = nodeEdits(
    options.devRoot,
    NODES[mode].flatMap((pattern) => found(options.devRoot, pattern)),
  );
  const mounts = mode === "gds" && edits.deviceNodes?.length !== 0 ? storageMounts(options.driverRoot) : [];
  return specOf(options.kind, [{ name: "all", containerEdits: { ...edits, mounts } }]);
}

/** `ids`: numbers, with or without "channel" before them, or "all". Throws Error for what is no number, and a channel that is not there. */
export function generateImex(ids: readonly string[], { devRoot, kind }: GatedOptions): CdiSpec {
  const names = ids.map((id) => id.replace(/^channel/, ""));
  const channels = names.includes("all")
    ? found(devRoot, `${CHANNELS}*`).map((path) => basename(path).replace(/^channel/, ""))
    : names;
  return specOf(
    kind,
    channels.map((channel) => channelDevice(channel, devRoot)),
  );
}

function channelDevice(channel: string, devRoot: string): CdiDevice {
  if (!/^\d+$/.test(channel) || Number(channel) > MAX_CHANNEL)
    throw new Error(`invalid channel id "${channel}": it must be a number from 0 to ${MAX_CHANNEL}`);
  const path = `${CHANNELS}${channel}`;
  const hostPath = `${devRoot}${path}`;
  if (!existsSync(hostPath)) throw new Error(`no IMEX channel ${channel}: ${hostPath} is not there`);
  return { name: channel, containerEdits: { deviceNodes: [{ path, ...(hostPath !== path && { hostPath }) }] } };
}

function specOf(kind: string, devices: readonly CdiDevice[]): CdiSpec {
  return tidy({
    cdiVersion: CURRENT_VERSION,
    kind,
    devices,
    containerEdits: { env: ["NVIDIA_VISIBLE_DEVICES=void"] },
  });
}

function found(root: string, pattern: string): string[] {
  return globSync(`${root}${pattern}`)
    .sort()
    .map((path) => path.slice(root.length));
}

function storageMounts(root: string): CdiMount[] {
  const files = [
    { path: "/run/udev", isDirectory: true },
    { path: "/etc/cufile.json", isDirectory: false },
  ];
  const there = files.filter(
    ({ path, isDirectory }) => statSync(`${root}${path}`, { throwIfNoEntry: false })?.isDirectory() === isDirectory,
  );
  return mountsBelow(
    root,
    there.map(({ path }) => path),
  );
}
