/** What is in a guest's image, by its first kilobytes: the file system, and whether a partition stands before it (Kata's images). */
import { closeSync, fstatSync, openSync, readSync } from "node:fs";

export type RootType = "erofs" | "ext4" | "xfs";

export interface ImageContent {
  /** Bytes. */
  readonly size: number;
  /** Undefined: none that is known. */
  readonly type: RootType | undefined;
  /** The file system is in the first partition. */
  readonly partitioned: boolean;
}

const SECTOR = 512;
const EROFS = { at: 1024, magic: Buffer.from([0xe2, 0xe1, 0xf5, 0xe0]) };
const EXT4 = { at: 1024 + 56, magic: Buffer.from([0x53, 0xef]) };
const XFS = { at: 0, magic: Buffer.from("XFSB") };
/** A master boot record's first entry: its type is its fifth byte, its first sector its ninth to twelfth. */
const MBR = { entry: 446, type: 450, start: 454, signature: { at: 510, magic: Buffer.from([0x55, 0xaa]) } };
const HEAD = 4096;

/** Throws as open(2) does. */
export function inspectImage(path: string): ImageContent {
  const file = openSync(path, "r");
  try {
    const { size } = fstatSync(file);
    const read = (position: number): Buffer => {
      const head = Buffer.alloc(HEAD);
      return head.subarray(0, readSync(file, head, 0, HEAD, position));
    };
    const head = read(0);
    const type = typeOf(head);
    if (type !== undefined || !isAt(head, MBR.signature) || head[MBR.type] === 0)
      return { size, type, partitioned: false };
    return { size, type: typeOf(read(head.readUInt32LE(MBR.start) * SECTOR)), partitioned: true };
  } finally {
    closeSync(file);
  }
}

function typeOf(head: Buffer): RootType | undefined {
  if (isAt(head, EROFS)) return "erofs";
  if (isAt(head, EXT4)) return "ext4";
  return isAt(head, XFS) ? "xfs" : undefined;
}

const isAt = (bytes: Buffer, { at, magic }: { at: number; magic: Buffer }): boolean =>
  bytes.subarray(at, at + magic.length).equals(magic);
