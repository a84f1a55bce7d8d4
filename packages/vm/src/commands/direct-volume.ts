/** berth-vm direct-volume: block devices of the node that pods' guests mount themselves. For CSI drivers. */
import type { Command } from "commander";
import { VmError } from "../errors.ts";
import { askManagement } from "../management/client.ts";
import { addDirectVolume, findDirectVolume, podOfDirectVolume, removeDirectVolume } from "../storage/direct-volumes.ts";
import type { Context } from "./context.ts";
import { sandboxDirectory } from "./sandboxes.ts";

interface Options {
  readonly volumePath: string;
  readonly mountInfo: string;
  readonly size: string;
}

const VOLUME_PATH = ["--volume-path <path>", "the target volume path the volume is published to"] as const;
/** A guest may have to write the tables of all that is new. */
const RESIZE_MS = 150_000;

export function addDirectVolumes(command: Command, context: Context): void {
  const direct = command.command("direct-volume").description("directly assign a volume to a pod's guest to manage");
  direct
    .command("add")
    .description("add a direct assigned block volume device")
    .requiredOption(...VOLUME_PATH)
    .requiredOption("--mount-info <json>", "the mount info for the guest to manage the volume")
    .action(async ({ volumePath, mountInfo }: Options) => await addDirectVolume(volumePath, mountInfo));
  direct
    .command("remove")
    .description("remove a direct assigned block volume device")
    .requiredOption(...VOLUME_PATH)
    .action(async ({ volumePath }: Options) => await removeDirectVolume(volumePath));
  direct
    .command("stats")
    .description("get the file system's statistics of a direct assigned volume")
    .requiredOption(...VOLUME_PATH)
    .action(async ({ volumePath }: Options) => {
      const { directory, device } = await placeOf(context, volumePath);
      // Its server unescapes it twice, as Kata's does.
      const path = `/direct-volume/stats?path=${encodeURIComponent(encodeURIComponent(device))}`;
      context.print(`${(await askManagement(directory, { path })).toString()}\n`);
    });
  direct
    .command("resize")
    .description("resize a direct assigned block volume")
    .requiredOption(...VOLUME_PATH)
    .requiredOption("--size <bytes>", "the new size of the volume")
    .action(async ({ volumePath, size }: Options) => {
      if (!/^\d+$/.test(size) || !Number.isSafeInteger(Number(size)))
        throw new VmError("InvalidArgument", `invalid value "${size}" for flag -size: give a number of bytes`);
      const { directory, device } = await placeOf(context, volumePath);
      const body = Buffer.from(JSON.stringify({ VolumePath: device, Size: Number(size) }));
      const timeoutMs = RESIZE_MS;
      const call = {
        method: "POST",
        path: "/direct-volume/resize",
        body,
        type: "application/json",
        timeoutMs,
      } as const;
      await askManagement(directory, call);
    });
}

/** Rejects with VmError: no such volume, or no pod that has it. */
async function placeOf(context: Context, volume: string): Promise<{ directory: string; device: string }> {
  const pod = await podOfDirectVolume(volume);
  const info = await findDirectVolume(volume);
  if (!info) throw new VmError("Missing", `no mount info of ${volume}`);
  return { directory: await sandboxDirectory(context, pod), device: info.device };
}
