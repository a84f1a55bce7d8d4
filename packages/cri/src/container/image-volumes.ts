/**
 * Images as volumes (KEP-4639): each is mounted read-only at a place of the container's for as long as it takes to clone it into
 * the container; then nothing of it is in the host's mount table. Its layers are held by a snapshot of the container's.
 */
import { lstat, mkdir, readdir, readlink, rm, rmdir } from "node:fs/promises";
import { join } from "node:path";
import type { Order } from "@berth/kernel";
import { planRootfsMount } from "@berth/runtime";
import type { cri } from "@berth/spec";
import { containerDir, type CriContext } from "../context.ts";
import { invalid, notFound } from "../errors.ts";
import type { Progress } from "../progress.ts";

/** By the mount's index in the configuration: the host's path to clone from. */
export type ImageSources = ReadonlyMap<number, string>;

const MNT_DETACH = 2n;
/** Symlinks that are followed at most, as the kernel does. */
const MAX_LINKS = 40;

const volumesDir = (context: CriContext, id: string): string => `${containerDir(context, id)}/images`;
/** A snapshot's key; the container's id comes first, so that it is known whose it is. */
const keyOf = (id: string, index: number): string => `${id}-image-${index}`;
export const ownerOfKey = (key: string): string => key.replace(/-image-\d+$/, "");

/** `userns`: the path of the pod's user namespace. */
export async function mountImageVolumes(
  context: CriContext,
  progress: Progress,
  id: string,
  config: cri.ContainerConfig,
  userns: string | undefined,
): Promise<ImageSources> {
  const sources = new Map<number, string>();
  for (const [index, mount] of config.mounts.entries()) {
    if (!mount.image?.image) continue;
    const field = `config.mounts[${index}]`;
    checkMount(mount, field);
    const image = context.images.find(mount.image.image);
    if (!image) throw notFound("image", mount.image.image);
    const target = `${volumesDir(context, id)}/${index}`;
    progress.onFailure("remove the container's directory", () =>
      rm(containerDir(context, id), { recursive: true, force: true }),
    );
    progress.onFailure(`release the image of ${field}`, () => releaseImageVolumes(context, id, config));
    await mkdir(target, { recursive: true, mode: 0o700 });
    const rootfs = await context.images.prepareRootfs(keyOf(id, index), image, 0);
    const idmap = userns !== undefined;
    const readOnly = rootfs.kind === "overlay" ? { ...rootfs, upper: undefined, idmap } : { ...rootfs, idmap };
    await context.hand.run(planRootfsMount(readOnly, target, context.host, { userns }), { signal: progress.signal });
    sources.set(index, await resolveInside(target, mount.imageSubPath, `${field}.image_sub_path`));
  }
  return sources;
}

/** What ContainerStatus tells of an image's mount (KEP-5365): which image it was at the time. */
export function recordImageRefs(context: CriContext, config: cri.ContainerConfig): void {
  for (const { image } of config.mounts) {
    const found = image?.image ? context.images.find(image.image) : undefined;
    if (image && found) image.imageRef = found.id;
  }
}

function checkMount(mount: cri.Mount, field: string): void {
  if (mount.hostPath !== "") throw invalid(`${field}.host_path: must be empty with ${field}.image`);
  if (!mount.readonly)
    throw invalid(`${field}.readonly: must be true with ${field}.image; an image cannot be written to`);
  if (mount.imageSubPath.startsWith("/") || mount.imageSubPath.split("/").includes(".."))
    throw invalid(`${field}.image_sub_path: "${mount.imageSubPath}" must be relative, without ".."`);
}

/** After the container has its own clones. Idempotent. */
export async function unmountImageVolumes(context: CriContext, id: string, config: cri.ContainerConfig): Promise<void> {
  if (!config.mounts.some(({ image }) => image?.image)) return;
  const dir = volumesDir(context, id);
  const names = await readdir(dir).catch((error: NodeJS.ErrnoException) => {
    if (error.code === "ENOENT") return undefined;
    throw error;
  });
  if (!names) return;
  const orders = names.map((name): Order => ({
    order: "unmount",
    args: { path: join(dir, name), flags: MNT_DETACH },
  }));
  await context.hand.run({ orders });
  for (const name of names) await rmdir(join(dir, name));
  await rmdir(dir);
}

/** With the container: the mounts that are left of a creation that was interrupted, and the holds on the layers. Idempotent. */
export async function releaseImageVolumes(context: CriContext, id: string, config: cri.ContainerConfig): Promise<void> {
  await unmountImageVolumes(context, id, config);
  for (const [index, mount] of config.mounts.entries())
    if (mount.image?.image) await context.images.removeRootfs(keyOf(id, index));
}

/** A path in the mounted image, whose symlinks lead no further than its own root. Nothing can change there meanwhile: it is read-only. */
async function resolveInside(root: string, path: string, field: string): Promise<string> {
  const left = path.split("/").filter((part) => part !== "" && part !== ".");
  let at = "";
  for (let links = 0; ;) {
    const part = left.shift();
    if (part === undefined) return root + at;
    if (part === "..") {
      at = at.slice(0, Math.max(0, at.lastIndexOf("/")));
      continue;
    }
    const next = `${at}/${part}`;
    const stats = await lstat(root + next).catch((error: NodeJS.ErrnoException) => {
      if (error.code !== "ENOENT" && error.code !== "ENOTDIR") throw error;
      throw invalid(`${field}: "${path}" does not exist in the image`);
    });
    if (!stats.isSymbolicLink()) {
      at = next;
      continue;
    }
    if (++links > MAX_LINKS) throw invalid(`${field}: "${path}" goes through too many symlinks`);
    const target = await readlink(root + next);
    if (target.startsWith("/")) at = "";
    left.unshift(...target.split("/").filter((one) => one !== "" && one !== "."));
  }
}
