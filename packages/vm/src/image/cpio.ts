/** An archive as the kernel unpacks it into its initramfs: cpio's "newc" format (Documentation/driver-api/early-userspace/buffer-format.rst). */

export type CpioEntry =
  | { readonly path: string; readonly kind: "directory"; readonly mode?: number }
  | { readonly path: string; readonly kind: "file"; readonly data: Uint8Array; readonly mode?: number }
  | { readonly path: string; readonly kind: "symlink"; readonly target: string }
  | {
      readonly path: string;
      readonly kind: "character";
      readonly mode: number;
      readonly device: readonly [number, number];
    };

const S_IFCHR = 0o020000;
const S_IFDIR = 0o040000;
const S_IFREG = 0o100000;
const S_IFLNK = 0o120000;
const TRAILER = "TRAILER!!!";

/** The whole archive. All belongs to root and is as old as the epoch, so that the same entries give the same bytes. */
export function cpioArchive(entries: readonly CpioEntry[]): Buffer {
  const parts: Uint8Array[] = [];
  let inode = 1;
  for (const entry of entries) {
    const data = dataOf(entry);
    parts.push(
      header(entry.path, inode++, modeOf(entry), data.length, entry.kind === "character" ? entry.device : [0, 0]),
    );
    parts.push(data, padding(data.length));
  }
  parts.push(header(TRAILER, 0, 0, 0, [0, 0]));
  return Buffer.concat(parts);
}

function dataOf(entry: CpioEntry): Uint8Array {
  if (entry.kind === "file") return entry.data;
  if (entry.kind === "symlink") return Buffer.from(entry.target);
  return new Uint8Array();
}

function modeOf(entry: CpioEntry): number {
  switch (entry.kind) {
    case "directory":
      return S_IFDIR | (entry.mode ?? 0o755);
    case "file":
      return S_IFREG | (entry.mode ?? 0o644);
    case "symlink":
      return S_IFLNK | 0o777;
    case "character":
      return S_IFCHR | entry.mode;
  }
}

/** 110 characters of magic and thirteen numbers of eight hexadecimal digits, then the name with its NUL, to a multiple of four. */
function header(
  path: string,
  inode: number,
  mode: number,
  size: number,
  [major, minor]: readonly [number, number],
): Buffer {
  const name = Buffer.from(`${path.replace(/^\/+/, "")}\0`);
  const links = (mode & 0o170000) === S_IFDIR ? 2 : 1;
  const numbers = [inode, mode, 0, 0, links, 0, size, 0, 0, major, minor, name.length, 0];
  const text = `070701${numbers.map((number) => number.toString(16).padStart(8, "0")).join("")}`;
  return Buffer.concat([Buffer.from(text), name, padding(text.length + name.length)]);
}

const padding = (size: number): Buffer => Buffer.alloc((4 - (size % 4)) % 4);
