/** A daemon's double: what it says of the disk, and what it removes. */
import type { FakeContainer, FakeImage } from "./daemon.ts";

interface Kept {
  readonly images: Map<string, FakeImage>;
  readonly containers: ReadonlyMap<string, FakeContainer>;
}

export function diskUsage({ images, containers }: Kept, verbose: boolean) {
  const hourAgo = BigInt(Date.now() - 3_600_000) * 1_000_000n;
  return {
    images: [...images.values()].slice(0, verbose ? undefined : 0).map(({ id, tags }) => ({
      id,
      references: tags,
      createdAt: hourAgo,
      bytes: 5_000_000n,
      uniqueBytes: 1_000_000n,
      containers: containers.size,
    })),
    containers: [...containers.keys()].slice(0, verbose ? undefined : 0).map((id) => ({ id, bytes: 4096n })),
    kinds: [
      { type: "images", total: 3, active: 1, bytes: 5_000_000n, reclaimable: 4_000_000n },
      { type: "containers", total: 0, active: 0, bytes: 0n, reclaimable: 0n },
    ],
  };
}

/** Those without a tag, or with `all` every one that no container has. */
export function prune({ images, containers }: Kept, all: boolean) {
  const used = new Set([...containers.values()].map(({ config }) => config.image?.image));
  const gone = [...images.values()].filter(
    ({ id, tags }) => !used.has(id) && !tags.some((tag) => used.has(tag)) && (all || tags.length === 0),
  );
  for (const { id } of gone) images.delete(id);
  return {
    images: gone.map(({ id, tags }) => ({ id, references: tags })),
    reclaimedBytes: BigInt(gone.length) * 4_321_000n,
  };
}
