/** Whether what a container is to be made of is a checkpoint. */
import { stat } from "node:fs/promises";
import type { cri } from "@berth/spec";
import type { CriContext } from "../context.ts";

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
