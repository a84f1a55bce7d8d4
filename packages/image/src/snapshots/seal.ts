/**
 * What keeps a layer's image from being changed unnoticed once it is committed: its fs-verity digest, which the kernel holds every
 * read of the file against, or the root of dm-verity's hash tree, by which a device above the file does.
 */
import type { Hand } from "@berth/kernel";
import { ImageError, toImageError } from "../errors.ts";
import type { WorkerPool } from "../layers/pool.ts";

export type Verity = "fsverity" | "dmverity";

export interface Seal {
  readonly kind: Verity;
  /** SHA-256 in hexadecimal. */
  readonly digest: string;
  /** Of dm-verity: the image's blocks, which the tree follows. */
  readonly blocks: number;
}

export const encodeSeal = ({ kind, digest, blocks }: Seal): string => `${kind}:${digest}:${blocks}`;

export function decodeSeal(text: string): Seal {
  const [kind, digest, blocks] = text.split(":") as [Verity, string, string];
  return { kind, digest, blocks: Number(blocks) };
}

/** Seals the image at `path`, which is not changed any more. */
export async function seal(kind: Verity, path: string, hand: Hand, pool: Pick<WorkerPool, "run">): Promise<Seal> {
  if (kind === "dmverity") {
    const { root, blocks } = await pool.run("hashTree", { path, append: true });
    return { kind, digest: root, blocks };
  }
  const [digest] = await measure(hand, [path], true);
  if (digest === undefined) throw new ImageError("Internal", `${path} has no fs-verity digest though it was enabled`);
  return { kind, digest, blocks: 0 };
}

/** fs-verity digests as the kernel has them; undefined: the file has none. Rejects as the hand does. */
export async function measure(hand: Hand, paths: readonly string[], enable = false): Promise<(string | undefined)[]> {
  const outputs = await hand.run(
    { orders: paths.map((path) => ({ order: "fs_verity", args: { path, enable: enable ? 1 : 0 } })) },
    { timeoutMs: ENABLE_TIMEOUT },
  );
  return paths.map((_, index) => {
    const digest = outputs.get(index);
    return digest === undefined ? undefined : Buffer.from(digest).toString("hex");
  });
}

/** How an image differs from its seal, in words; undefined: not at all. */
export async function broken(
  wanted: Seal,
  path: string,
  hand: Hand,
  pool: Pick<WorkerPool, "run">,
): Promise<string | undefined> {
  if (wanted.kind === "dmverity") {
    const { root, blocks } = await pool.run("hashTree", { path, append: false });
    return root === wanted.digest && blocks === wanted.blocks
      ? undefined
      : `${path} has the dm-verity root ${root}, not ${wanted.digest}`;
  }
  const [found] = await measure(hand, [path]);
  return found === wanted.digest ? undefined : wrongDigest(path, found, wanted);
}

/** Before images are mounted: that those sealed by fs-verity are the files that were sealed. Rejects with ImageError DigestMismatch. */
export async function checkSeals(hand: Hand, images: readonly { path: string; seal: Seal }[]): Promise<void> {
  const measured = images.filter(({ seal: { kind } }) => kind === "fsverity");
  if (measured.length === 0) return;
  const paths = measured.map(({ path }) => path);
  const digests = await measure(hand, paths).catch((error: unknown) => {
    throw toImageError(error, "measure fs-verity of layers");
  });
  for (const [index, { path, seal: wanted }] of measured.entries())
    if (digests[index] !== wanted.digest)
      throw new ImageError(
        "DigestMismatch",
        `${wrongDigest(path, digests[index], wanted)}: run berth system fsck --repair`,
      );
}

function wrongDigest(path: string, found: string | undefined, wanted: Seal): string {
  return found === undefined
    ? `${path} has no fs-verity digest, though it was sealed`
    : `${path} has the fs-verity digest ${found}, not ${wanted.digest}`;
}

/** The kernel reads the whole file to enable fs-verity. */
const ENABLE_TIMEOUT = 600_000;
