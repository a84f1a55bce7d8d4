/**
 * EROFS on disk, as far as uncompressed images need it (kernel, fs/erofs/erofs_fs.h and
 * Documentation/filesystems/erofs.rst; on-disk format of Linux 5.4, chunks of 5.15). All numbers are little-endian.
 */
export const BLOCK_BITS = 12;
export const BLOCK = 1 << BLOCK_BITS;
export const SUPER_OFFSET = 1024;
export const MAGIC = 0xe0f5e1e2;
/** An inode's number is its distance from the start of the inode area in these units. */
export const SLOT = 32;
export const COMPACT_SIZE = 32;
export const EXTENDED_SIZE = 64;
export const DIRENT_SIZE = 12;
/** The block address of a chunk that is a hole. */
export const HOLE = 0xffffffff;
/** Block addresses have 32 bits. */
export const BLOCKS_MAX = 0xfffffffe;

export const COMPAT_CHECKSUM = 1;
export const COMPAT_MTIME = 2;
export const INCOMPAT_CHUNKED_FILE = 4;

export const LAYOUT = { plain: 0, inline: 2, chunked: 4 } as const;

export const S_IFMT = 0o170000;
const S_IFIFO = 0o010000;
export const S_IFCHR = 0o020000;
export const S_IFDIR = 0o040000;
export const S_IFBLK = 0o060000;
export const S_IFREG = 0o100000;
export const S_IFLNK = 0o120000;

/** The type that a directory entry repeats, by S_IFMT bits. */
export const FILE_TYPE: Readonly<Record<number, number>> = {
  [S_IFREG]: 1,
  [S_IFDIR]: 2,
  [S_IFCHR]: 3,
  [S_IFBLK]: 4,
  [S_IFIFO]: 5,
  [S_IFLNK]: 7,
};

export interface SuperBlock {
  readonly rootNid: number;
  readonly inodes: number;
  /** Seconds and nanoseconds since the epoch: the time of all compact inodes. */
  readonly time: number;
  readonly timeNs: number;
  readonly blocks: number;
  readonly metaBlock: number;
  readonly chunked: boolean;
}

/** The first block of an image. */
export function encodeSuperBlock(fields: SuperBlock): Buffer {
  const block = Buffer.alloc(BLOCK);
  const at = SUPER_OFFSET;
  block.writeUInt32LE(MAGIC, at);
  block.writeUInt32LE(COMPAT_CHECKSUM | COMPAT_MTIME, at + 8);
  block.writeUInt8(BLOCK_BITS, at + 12);
  block.writeUInt16LE(fields.rootNid, at + 14);
  block.writeBigUInt64LE(BigInt(fields.inodes), at + 16);
  block.writeBigInt64LE(BigInt(fields.time), at + 24);
  block.writeUInt32LE(fields.timeNs, at + 32);
  block.writeUInt32LE(fields.blocks, at + 36);
  block.writeUInt32LE(fields.metaBlock, at + 40);
  block.writeUInt32LE(fields.chunked ? INCOMPAT_CHUNKED_FILE : 0, at + 80);
  block.writeUInt32LE(crc32c(block.subarray(at)), at + 4);
  return block;
}

/** Of an image's first block. Undefined: it is none of what `encodeSuperBlock` writes. */
export function decodeSuperBlock(block: Buffer): SuperBlock | undefined {
  const at = SUPER_OFFSET;
  if (block.length < BLOCK || block.readUInt32LE(at) !== MAGIC || block.readUInt8(at + 12) !== BLOCK_BITS)
    return undefined;
  const summed = Buffer.from(block.subarray(at));
  summed.writeUInt32LE(0, 4);
  if (crc32c(summed) !== block.readUInt32LE(at + 4)) return undefined;
  return {
    rootNid: block.readUInt16LE(at + 14),
    inodes: Number(block.readBigUInt64LE(at + 16)),
    time: Number(block.readBigInt64LE(at + 24)),
    timeNs: block.readUInt32LE(at + 32),
    blocks: block.readUInt32LE(at + 36),
    metaBlock: block.readUInt32LE(at + 40),
    chunked: (block.readUInt32LE(at + 80) & INCOMPAT_CHUNKED_FILE) !== 0,
  };
}

/** Castagnoli's, seeded with all ones and not inverted at the end, as the kernel sums a superblock. */
function crc32c(bytes: Uint8Array): number {
  let sum = 0xffffffff;
  for (const byte of bytes) {
    sum ^= byte;
    for (let bit = 0; bit < 8; bit++) sum = (sum >>> 1) ^ ((sum & 1) === 0 ? 0 : 0x82f63b78);
  }
  return sum >>> 0;
}

export function align(value: number, unit: number): number {
  return Math.ceil(value / unit) * unit;
}

/** Device numbers as the kernel's new_encode_dev writes them. */
export function encodeDevice(major: number, minor: number): number {
  return (((minor & 0xff) | ((major & 0xfff) << 8) | ((minor & 0xfff00) << 12)) & 0xffffffff) >>> 0;
}

export function decodeDevice(device: number): { major: number; minor: number } {
  return { major: (device >>> 8) & 0xfff, minor: (device & 0xff) | ((device >>> 12) & 0xfff00) };
}
