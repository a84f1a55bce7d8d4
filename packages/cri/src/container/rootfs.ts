/** A container's root file system, as the plans take it. */
import { chown } from "node:fs/promises";
import { type ImageRecord, parseSize } from "@berth/image";
import type { Rootfs } from "@berth/runtime";
import type { CriContext } from "../context.ts";
import { invalid, precondition } from "../errors.ts";
import { podNamespaces } from "../sandbox/namespaces.ts";
import { rootOnHost, type UsernsMaps } from "../sandbox/userns.ts";
import type { Container } from "../store/records.ts";

/**
 * Annotation of a container, or of a pod for all of its containers: most that the writable layer may take, as docker's
 * `--storage-opt size=`. 0: no limit, whatever default_size says.
 */
export const STORAGE_SIZE = "dev.berth.storage-opt.size";

/** Bytes; undefined: what the configuration says. Throws InvalidArgument. */
export function writableSize(...annotations: readonly Readonly<Record<string, string>>[]): number | undefined {
  const text = annotations.map((each) => each[STORAGE_SIZE]).find((value) => value !== undefined);
  if (text === undefined) return undefined;
  const size = parseSize(text);
  if (size === undefined) throw invalid(`annotation "${STORAGE_SIZE}": "${text}" is not a size, as in 512m or 10G`);
  return size;
}

/** In a user namespace the layers are mapped, and what the container adds belongs to its ids as they are on the host. */
export async function prepareRootfs(
  context: CriContext,
  id: string,
  image: ImageRecord,
  userns: UsernsMaps | undefined,
  size: number | undefined,
): Promise<Rootfs> {
  const rootfs = await context.images.prepareRootfs(id, image, size);
  const { uid, gid } = rootOnHost(userns);
  if (userns && rootfs.kind === "overlay") await chown(rootfs.upper, uid, gid);
  return mapped(rootfs, userns);
}

/** What prepareRootfs answered, also after a restart. */
export function rootfsOf(context: CriContext, { record, rootfs }: Container): Rootfs {
  const known = rootfs ?? context.images.rootfs(record.id);
  if (!known) throw precondition(`container "${record.id}" has no root file system any more`);
  return mapped(known, podNamespaces(context.sandboxes.get(record.sandboxId).record.config).userns);
}

const mapped = (rootfs: Rootfs, userns: UsernsMaps | undefined): Rootfs =>
  userns ? { ...rootfs, idmap: true } : rootfs;
