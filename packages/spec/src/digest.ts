/** Content digests: `algorithm:hex`, as in the OCI image specification, "Descriptor", Digests. */
import { createHash, timingSafeEqual } from "node:crypto";

const HEX_LENGTH = { sha256: 64, sha384: 96, sha512: 128 } as const;
export type DigestAlgorithm = keyof typeof HEX_LENGTH;

export interface Digest {
  readonly algorithm: DigestAlgorithm;
  /** Lower-case. */
  readonly hex: string;
}

export class InvalidDigest extends Error {
  override readonly name = "InvalidDigest";
}

/** Throws InvalidDigest: unknown algorithm, wrong length, or anything but lower-case hexadecimal. */
export function parseDigest(text: string): Digest {
  const colon = text.indexOf(":");
  if (colon < 1)
    throw new InvalidDigest(`digest "${text}" has no algorithm: expected "sha256:" and 64 hexadecimal digits`);
  const algorithm = text.slice(0, colon);
  const hex = text.slice(colon + 1);
  if (!Object.hasOwn(HEX_LENGTH, algorithm))
    throw new InvalidDigest(`digest "${text}" uses the unsupported algorithm "${algorithm}"`);
  const length = HEX_LENGTH[algorithm as DigestAlgorithm];
  if (hex.length !== length || !/^[0-9a-f]*$/.test(hex))
    throw new InvalidDigest(`digest "${text}" needs ${length} lower-case hexadecimal digits after "${algorithm}:"`);
  return { algorithm: algorithm as DigestAlgorithm, hex };
}

export function isDigest(text: string): boolean {
  try {
    parseDigest(text);
    return true;
  } catch (error) {
    if (error instanceof InvalidDigest) return false;
    throw error;
  }
}

export function digestOf(bytes: Uint8Array, algorithm: DigestAlgorithm = "sha256"): string {
  return `${algorithm}:${createHash(algorithm).update(bytes).digest("hex")}`;
}

/** Whether `bytes` are the content that `digest` names. Throws InvalidDigest. */
export function verifyDigest(digest: string, bytes: Uint8Array): boolean {
  const { algorithm, hex } = parseDigest(digest);
  return timingSafeEqual(createHash(algorithm).update(bytes).digest(), Buffer.from(hex, "hex"));
}

/**
 * The chain id of every layer of a root file system, lowest first (OCI image specification, "Layer ChainID"): the
 * identity of a layer together with everything beneath it.
 */
export function chainIds(diffIds: readonly string[]): string[] {
  const chain: string[] = [];
  for (const diffId of diffIds) {
    parseDigest(diffId);
    const below = chain.at(-1);
    chain.push(below === undefined ? diffId : digestOf(Buffer.from(`${below} ${diffId}`)));
  }
  return chain;
}
