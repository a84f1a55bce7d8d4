/** Which of an entry's extended attributes a file of a layer gets: those that setxattr(2) would take, whatever the file system. */
import { ImageError } from "../errors.ts";
import { printable, type TarEntry } from "./tar.ts";

const OVERLAY = "trusted.overlay.";
const CAPABILITY = "security.capability";
const ACL = /^system\.posix_acl_(access|default)$/;
const NAMESPACES = /^(user|trusted|security)\./;

/**
 * Overlayfs's own are dropped: a layer that brought them could redirect or hide what other layers have. So are those of namespaces
 * that Linux does not have, and users' of what is neither file nor directory (xattr(7)): no file system would take them. Throws
 * InvalidImage where the kernel would find no capability or access list in what is said to be one.
 */
export function attributesOf(entry: TarEntry): ReadonlyMap<string, Uint8Array> {
  const { type, xattrs } = entry;
  const users = type === "file" || type === "directory";
  const kept = new Map<string, Uint8Array>();
  for (const [name, value] of xattrs) {
    if (name.startsWith(OVERLAY) || (name.startsWith("user.") && !users)) continue;
    if (ACL.test(name)) check(entry, name, isAccessList(value));
    else if (name === CAPABILITY) check(entry, name, isCapability(value));
    else if (!NAMESPACES.test(name)) continue;
    else check(entry, name, /^\w+\.[^\0]/.test(name));
    kept.set(name, value);
  }
  return kept;
}

function check({ path }: TarEntry, name: string, holds: boolean): void {
  if (holds) return;
  const file = printable(path);
  throw new ImageError(
    "InvalidImage",
    `"${file}": no file can have its extended attribute "${printable(Buffer.from(name))}"`,
  );
}

/** vfs_cap_data and vfs_ns_cap_data (kernel, include/uapi/linux/capability.h): the revision says the length. */
function isCapability(value: Uint8Array): boolean {
  const revision = value[3];
  return (value.length === 20 && revision === 2) || (value.length === 24 && revision === 3);
}

/** posix_acl_xattr_header and entries (kernel, include/uapi/linux/posix_acl_xattr.h). */
function isAccessList(value: Uint8Array): boolean {
  const version = [2, 0, 0, 0];
  return value.length >= 4 && value.length % 8 === 4 && version.every((byte, index) => value[index] === byte);
}
