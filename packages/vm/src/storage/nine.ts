/** The share by 9p, as Kata 1.x had it: QEMU's own, where the guest's kernel can (Debian's cloud kernel cannot). */
import type { VmSettings } from "../configuration/settings.ts";
import type { GuestFiles } from "../hypervisor/choose.ts";
import type { NineShare } from "../hypervisor/machine.ts";
import { shareServed, SHARE_TAG } from "../sandbox/host.ts";

/** Undefined: it is not asked for, or cannot be had: then nothing is shared. */
export function nineShare(settings: VmSettings, files: GuestFiles, directory: string): NineShare | undefined {
  const asked = settings.hypervisor.shared_fs === "virtio-9p" && settings.name === "qemu";
  if (!asked || files.has9p !== true || files.agent !== undefined) return undefined;
  return { tag: SHARE_TAG, path: shareServed(directory) };
}

/** Of the guest's mount. cache=mmap: without it no file could be mapped to be written. */
export const nineOptions = ({ hypervisor }: VmSettings): string =>
  `trans=virtio,version=9p2000.L,cache=mmap,msize=${hypervisor.msize_9p}`;
