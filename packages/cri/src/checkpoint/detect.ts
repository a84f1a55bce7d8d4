/** Whether what a container is to be made of is a checkpoint. */
import { stat } from "node:fs/promises";
import type { cri } from "@berth/spec";
import type { CriContext } from "../context.ts";
import { precondition } from "../errors.ts";

/** Throws where this node makes no containers of checkpoints. */
export function checkRestore({ config }: CriContext, { image }: cri.ContainerConfig): void {
  const key = [
    ["enable_criu", config.enableCriu],
    ["enable_experimental_restore_via_create", config.restoreViaCreate],
  ].find(([, enabled]) => enabled === false)?.[0];
  if (key === undefined) return;
  const what = `config.image.image: "${image?.image}" is a checkpoint`;
  throw precondition(`${what}, and restoring is disabled on this node (${key} in berthd's configuration)`);
}

/** Of the image's manifest: containerd's (checkpointctl, lib/metadata.go), and CRI-O's before it. */
const ANNOTATIONS = ["org.criu.checkpoint.container.name", "io.kubernetes.cri-o.annotations.checkpoint.name"];

export async function isCheckpoint(context: CriContext, { image }: cri.ContainerConfig): Promise<boolean> {
  const name = image?.image ?? "";
  if (name.startsWith("/")) return await isFile(name);
  const record = context.images.find(name);
  if (record === undefined) return false;
  const annotations = context.images.annotations(record);
  return ANNOTATIONS.some((key) => annotations[key] !== undefined);
}

async function isFile(path: string): Promise<boolean> {
  try {
    return (await stat(path)).isFile();
  } catch (error) {
    if (["ENOENT", "ENOTDIR"].includes((error as NodeJS.ErrnoException).code ?? "")) return false;
    throw error;
  }
}
