/** Images that are made to do harm: refused with the limit's name, or unpacked safely; nothing is left of them. */
import assert from "node:assert/strict";
import test from "node:test";
import { gzipSync } from "node:zlib";
import { image } from "@berth/spec";
import { isError, registryFor, rigFor, skip } from "./support/fixtures.ts";
import { build, digest } from "./support/registry.ts";
import { leftovers, openImages } from "./support/store.ts";
import { archive } from "./support/tar-writer.ts";

test("a zip bomb is refused by the limit that it passes, long before it has grown", skip, async (t) => {
  const [registry, rig] = [await registryFor(t), await rigFor(t)];
  const images = await openImages(t, rig, { limits: { entries: 1000, bytes: 4 << 20 } });
  const bomb = build([archive({ name: "f", data: Buffer.alloc(64 << 20) })]);
  assert.ok((bomb.layers[0] as Buffer).length < 100_000);
  await assert.rejects(images.pull(registry.push("bomb", "1", bomb)), isError("LimitExceeded", /limit layer\.bytes/));
  assert.deepEqual(leftovers(rig.root), []);
});

test("10,000 layers are refused before the first is asked for", skip, async (t) => {
  const [registry, rig] = [await registryFor(t), await rigFor(t)];
  const images = await openImages(t, rig);
  const tar = archive({ name: "f" });
  const layer = gzipSync(tar);
  const config = Buffer.from(
    JSON.stringify({
      os: "linux",
      architecture: "amd64",
      rootfs: { type: "layers", diff_ids: Array(10_000).fill(digest(tar)) },
    }),
  );
  const manifest = Buffer.from(
    JSON.stringify({
      schemaVersion: 2,
      mediaType: image.MEDIA.ociManifest,
      config: { mediaType: image.MEDIA.ociConfig, digest: digest(config), size: config.length },
      layers: Array.from({ length: 10_000 }, () => ({
        mediaType: image.MEDIA.ociLayerGzip,
        digest: digest(layer),
        size: layer.length,
      })),
    }),
  );
  registry.blobs.set(digest(config), config).set(digest(layer), layer);
  registry.document("many", "1", manifest, image.MEDIA.ociManifest);
  await assert.rejects(
    images.pull(`${registry.host}/many:1`),
    isError("LimitExceeded", /10000 layers \(at most 500\)/),
  );
  assert.equal(registry.count(/blobs/), 0);
  assert.deepEqual(leftovers(rig.root), []);
});

test("a layer that is cut off, and one that is no archive, leave nothing", skip, async (t) => {
  const [registry, rig] = [await registryFor(t), await rigFor(t)];
  const images = await openImages(t, rig);
  const whole = archive({ name: "a/b/c", data: Buffer.alloc(100_000, "x") });
  for (const tar of [whole.subarray(0, 50_000), Buffer.alloc(4096, "not tar"), gzipSync(whole).subarray(0, 60)]) {
    await assert.rejects(images.pull(registry.push("cut", "1", build([tar]))), isError("InvalidImage"));
    assert.deepEqual(leftovers(rig.root), []);
  }
});
