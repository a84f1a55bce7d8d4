/** A container's root file system, as the plans take it. */
import { chown } from "node:fs/promises";
import type { ImageRecord } from "@berth/image";
import type { Rootfs } from "@berth/runtime";
import type { CriContext } from "../context.ts";
import { precondition } from "../errors.ts";
import { podNamespaces } from "../sandbox/namespaces.ts";
import { rootOnHost, type UsernsMaps } from "../sandbox/userns.ts";
import type { Container } from "../store/records.ts";

/** In a user namespace the layers are mapped, and what the container adds belongs to its ids as they are on the host. */
export async function prepareRootfs(
  context: CriContext,
  id: string,
  image: ImageRecord,
  userns: UsernsMaps | undefined,
): Promise<Rootfs> {
  const rootfs = await context.images.prepareRootfs(id, image);
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
