/** Extended attributes as EROFS keeps them behind an inode: a header, then entries of prefix index, name and value. */
const HEADER = 12;
const ENTRY = 4;
const VALUE_MAX = 0xffff;
/** i_xattr_icount counts four bytes each in 16 bits. */
const AREA_MAX = 0xffff * 4;

/** Kernel, fs/erofs/erofs_fs.h (EROFS_XATTR_INDEX_*). Longest first, as the access list's name is a whole one. */
const PREFIXES: readonly (readonly [prefix: string, index: number])[] = [
  ["system.posix_acl_access", 2],
  ["system.posix_acl_default", 3],
  ["security.", 6],
  ["trusted.", 4],
  ["user.", 1],
];

/**
 * The area behind an inode; undefined for none. Names of namespaces that Linux does not have on files are left out, as
 * setxattr(2) would refuse them. Throws RangeError where it does not fit.
 */
export function encodeXattrs(xattrs: ReadonlyMap<string, Uint8Array> | undefined): Buffer | undefined {
  if (xattrs === undefined || xattrs.size === 0) return undefined;
  const parts: Buffer[] = [Buffer.alloc(HEADER)];
  for (const [name, value] of [...xattrs].sort(([a], [b]) => (a < b ? -1 : 1))) {
    const found = PREFIXES.find(([prefix]) => name.startsWith(prefix));
    if (found === undefined) continue;
    const rest = Buffer.from(name.slice(found[0].length));
    if (rest.length > 0xff) throw new RangeError(`the attribute "${name}" has a name of more than 255 bytes`);
    if (value.length > VALUE_MAX) throw new RangeError(`the attribute "${name}" is larger than ${VALUE_MAX} bytes`);
    const entry = Buffer.alloc(Math.ceil((ENTRY + rest.length + value.length) / 4) * 4);
    entry.writeUInt8(rest.length, 0);
    entry.writeUInt8(found[1], 1);
    entry.writeUInt16LE(value.length, 2);
    rest.copy(entry, ENTRY);
    entry.set(value, ENTRY + rest.length);
    parts.push(entry);
  }
  if (parts.length === 1) return undefined;
  const area = Buffer.concat(parts);
  if (area.length > AREA_MAX) throw new RangeError(`extended attributes of ${area.length} bytes (at most ${AREA_MAX})`);
  return area;
}

export function decodeXattrs(area: Buffer): Map<string, Uint8Array> {
  const xattrs = new Map<string, Uint8Array>();
  for (let at = HEADER; at + ENTRY <= area.length;) {
    const nameLength = area.readUInt8(at);
    const prefix = PREFIXES.find(([, index]) => index === area.readUInt8(at + 1))?.[0] ?? "";
    const valueLength = area.readUInt16LE(at + 2);
    const name = at + ENTRY;
    const value = name + nameLength;
    xattrs.set(prefix + area.toString("utf8", name, value), Uint8Array.from(area.subarray(value, value + valueLength)));
    at += Math.ceil((ENTRY + nameLength + valueLength) / 4) * 4;
  }
  return xattrs;
}

/** i_xattr_icount of an area. */
export function xattrCount(area: Buffer | undefined): number {
  return area === undefined ? 0 : (area.length - HEADER) / 4 + 1;
}

export function xattrAreaSize(count: number): number {
  return count === 0 ? 0 : HEADER + (count - 1) * 4;
}
