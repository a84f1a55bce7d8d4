/** What dm-verity holds an image's blocks against (Documentation/admin-guide/device-mapper/verity.rst), in veritysetup's format 1 without its superblock. */
import { createHash } from "node:crypto";

const BLOCK = 4096;
const DIGEST = 32;
const PER_BLOCK = BLOCK / DIGEST;

export interface Verity {
  /** The levels of digests, the uppermost first. */
  readonly tree: Buffer;
  /** For kernel_verity_params, as Kata's image builder writes it. */
  readonly parameters: string;
}

/** `data`: whole blocks. The same data gives the same salt. */
export function verityOf(data: Uint8Array): Verity {
  const salt = createHash("sha256").update("salt").update(data).digest();
  const digest = (block: Uint8Array): Buffer => createHash("sha256").update(salt).update(block).digest();
  const levels: Buffer[] = [];
  let level: Uint8Array = data;
  do {
    level = digestsOf(level, digest);
    levels.unshift(level as Buffer);
  } while (level.length > BLOCK);
  const root = digest(level).toString("hex");
  const sizes = `data_blocks=${data.length / BLOCK},data_block_size=${BLOCK},hash_block_size=${BLOCK}`;
  return { tree: Buffer.concat(levels), parameters: `root_hash=${root},salt=${salt.toString("hex")},${sizes}` };
}

function digestsOf(blocks: Uint8Array, digest: (block: Uint8Array) => Buffer): Buffer {
  const count = blocks.length / BLOCK;
  const level = Buffer.alloc(Math.ceil(count / PER_BLOCK) * BLOCK);
  for (let index = 0; index < count; index++)
    digest(blocks.subarray(index * BLOCK, (index + 1) * BLOCK)).copy(level, index * DIGEST);
  return level;
}
