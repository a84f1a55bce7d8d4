/** open(2) flags and file types, in the numbering of x86 and arm64's generic ABI where they agree. */
import { constants } from "node:fs";

/** O_PATH and O_DIRECTORY differ between architectures: node:fs has the running one's. O_PATH is not there; it is the same on all of Node's. */
export const O = {
  RDONLY: constants.O_RDONLY,
  WRONLY: constants.O_WRONLY,
  RDWR: constants.O_RDWR,
  NOFOLLOW: constants.O_NOFOLLOW,
  DIRECTORY: constants.O_DIRECTORY,
  NONBLOCK: constants.O_NONBLOCK,
  PATH: 0x200000,
} as const;

export const S = { IFCHR: 0o020000, IFBLK: 0o060000, IFIFO: 0o010000 } as const;

/** umount2(2). */
export const MNT_DETACH = 2n;
