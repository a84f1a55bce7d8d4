/** What umoci unpacks of an image: the tree that ours must equal. */
import { execFileSync } from "node:child_process";
import { mkdirSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { image } from "@berth/spec";
import { type BuiltImage, digest } from "./registry.ts";
import { scan, type Tree } from "./scan.ts";

export function writeLayout(directory: string, built: BuiltImage, tag: string): void {
  mkdirSync(join(directory, "blobs/sha256"), { recursive: true });
  for (const bytes of [built.manifest, built.config, ...built.layers])
    writeFileSync(join(directory, "blobs/sha256", digest(bytes).slice(7)), bytes);
  writeFileSync(join(directory, "oci-layout"), '{"imageLayoutVersion":"1.0.0"}');
  writeFileSync(
    join(directory, "index.json"),
    JSON.stringify({
      schemaVersion: 2,
      manifests: [
        {
          mediaType: image.MEDIA.ociManifest,
          digest: built.manifestDigest,
          size: built.manifest.length,
          annotations: { "org.opencontainers.image.ref.name": tag },
        },
      ],
    }),
  );
}

/** `layout`: with the tag 1. */
export function umociTree(layout: string, bundle: string): Tree {
  execFileSync("umoci", ["unpack", "--image", `${layout}:1`, bundle], { stdio: "pipe" });
  return scan(`${bundle}/rootfs`);
}
