/** What images take on disk, each by itself: blobs and unpacked layers. */
import { chainIds } from "@berth/spec/oci";
import type { SnapshotInfo } from "../snapshots/snapshotter.ts";
import type { ImageContent } from "./catalog.ts";

/** Bytes. */
export interface ImageSize {
  readonly bytes: number;
  /** What no other image has: removing the image frees it, once no container is on it. */
  readonly unique: number;
}

/** By the images' ids. `blobSize`: by digest. */
export function sizesOf(
  contents: Iterable<ImageContent>,
  blobSize: (digest: string) => number,
  snapshots: readonly SnapshotInfo[],
): Map<string, ImageSize> {
  const layers = new Map(
    snapshots.flatMap(({ chainId, usage }) => (chainId === undefined ? [] : [[chainId, usage.bytes]])),
  );
  const parts = new Map<string, Map<string, number>>();
  for (const { target, manifestDigest, manifest, config } of contents) {
    const id = manifest.config.digest;
    const own = parts.get(id) ?? new Map<string, number>();
    for (const digest of [target, manifestDigest, id, ...manifest.layers.map((layer) => layer.digest)])
      own.set(`blob ${digest}`, blobSize(digest));
    for (const chain of chainIds(config.rootfs.diff_ids)) own.set(`layer ${chain}`, layers.get(chain) ?? 0);
    parts.set(id, own);
  }
  const owners = new Map<string, number>();
  for (const own of parts.values()) for (const part of own.keys()) owners.set(part, (owners.get(part) ?? 0) + 1);
  const sum = (own: Iterable<[string, number]>): number => [...own].reduce((total, [, bytes]) => total + bytes, 0);
  return new Map(
    [...parts].map(([id, own]) => [
      id,
      { bytes: sum(own), unique: sum([...own].filter(([part]) => owners.get(part) === 1)) },
    ]),
  );
}
