/** The forms that images come in: OCI's and Docker's documents, every compression, platforms with variants, and what is no image. */
import assert from "node:assert/strict";
import test from "node:test";
import { gzipSync, zstdCompressSync } from "node:zlib";
import { image } from "@berth/spec/oci";
import { app, base, isError, layer, registryFor, rigFor, skip } from "./support/fixtures.ts";
import { build, type BuiltImage, digest, type FakeRegistry } from "./support/registry.ts";
import { leftovers, openImages } from "./support/store.ts";

const { MEDIA } = image;

/** The content of /etc/passwd in the image. */
const PASSWD = "root:x:0:0:root:/root:/bin/sh\n";

/** As stargz-snapshotter writes a layer: a member for each entry, the table of contents as the last entry, and a footer. */
function estargz(tar: Buffer): Buffer {
  const toc = layer({ name: "stargz.index.json", data: '{"version":1,"entries":[]}' });
  const footer = gzipSync(Buffer.alloc(0), { level: 0 });
  const entries: Buffer[] = [];
  for (let at = 0; at < tar.length; at += 4096) entries.push(gzipSync(tar.subarray(at, at + 4096)));
  return Buffer.concat([...entries, gzipSync(toc), footer]);
}

/** What such a layer unpacks to. */
const withToc = (tar: Buffer): Buffer =>
  Buffer.concat([tar, layer({ name: "stargz.index.json", data: '{"version":1,"entries":[]}' })]);

/** As containers/storage writes a layer: a frame for each part, the manifest and the footer in frames to be passed over. */
function zstdChunked(tar: Buffer): Buffer {
  const skippable = (content: string): Buffer => {
    const header = Buffer.from([0x5a, 0x2a, 0x4d, 0x18, 0, 0, 0, 0]);
    header.writeUInt32LE(content.length, 4);
    return Buffer.concat([header, Buffer.from(content)]);
  };
  const half = Math.floor(tar.length / 1024) * 512;
  return Buffer.concat([
    zstdCompressSync(tar.subarray(0, half)),
    zstdCompressSync(tar.subarray(half)),
    skippable('{"version":1,"entries":[]}'),
    skippable("GNUlInUx"),
  ]);
}

/** Without the two empty blocks at its end: the archive goes on. */
const open = (tar: Buffer): Buffer => {
  let end = tar.length;
  while (end >= 512 && tar.subarray(end - 512, end).every((byte) => byte === 0)) end -= 512;
  return tar.subarray(0, end);
};

const FORMS: readonly (readonly [name: string, built: BuiltImage])[] = [
  ["gzip", build([base])],
  ["zstd", build([base], { compress: (tar) => zstdCompressSync(tar), layerType: MEDIA.ociLayerZstd })],
  ["no compression", build([base], { compress: (tar) => tar, layerType: MEDIA.ociLayer })],
  ["a media type that lies about the compression", build([base], { compress: (tar) => tar })],
  ["estargz", build([open(base)], { compress: (tar) => estargz(tar), diffIds: [digest(withToc(open(base)))] })],
  ["zstd:chunked", build([base], { compress: (tar) => zstdChunked(tar), layerType: MEDIA.ociLayerZstd })],
  ["Docker's layer type", build([base], { layerType: MEDIA.dockerLayerGzip })],
];

for (const [name, built] of FORMS) {
  test(`a layer of ${name}`, skip, async (t) => {
    const [registry, rig] = [await registryFor(t), await rigFor(t)];
    const images = await openImages(t, rig);
    const record = await images.pull(registry.push("a", "1", built));
    assert.equal(record.id, built.id);
    const { passwd } = await images.userDatabase(record);
    assert.equal(Buffer.from(passwd ?? []).toString(), PASSWD);
  });
}

/** The same image with a document changed. */
function changed(built: BuiltImage, change: (manifest: Record<string, unknown>) => void): Buffer {
  const manifest = JSON.parse(built.manifest.toString()) as Record<string, unknown>;
  change(manifest);
  return Buffer.from(JSON.stringify(manifest));
}

test("Docker's schema 2: manifest, and list with variants", skip, async (t) => {
  const [registry, rig] = [await registryFor(t), await rigFor(t)];
  const images = await openImages(t, rig);
  const variants = ["v6", "v7"].map((variant) => {
    const built = app(variant, { platform: { os: "linux", architecture: "arm", variant } });
    registry.push("a", "unused", built);
    const manifest = changed(built, (document) => {
      document["mediaType"] = MEDIA.dockerManifest;
      (document["config"] as { mediaType: string }).mediaType = MEDIA.dockerConfig;
    });
    registry.document("a", variant, manifest, MEDIA.dockerManifest);
    return { built, manifest, variant };
  });
  const manifests = variants.map(({ manifest, variant }) => ({
    mediaType: MEDIA.dockerManifest,
    digest: digest(manifest),
    size: manifest.length,
    platform: { os: "linux", architecture: "arm", variant },
  }));
  const attestation = {
    mediaType: MEDIA.ociManifest,
    digest: digest(Buffer.from("attestation")),
    size: 1,
    platform: { os: "unknown", architecture: "unknown" },
  };
  const list = { schemaVersion: 2, mediaType: MEDIA.dockerIndex, manifests: [attestation, ...manifests] };
  registry.document("a", "list", Buffer.from(JSON.stringify(list)), MEDIA.dockerIndex);
  const reference = `${registry.host}/a:list`;
  const pulled = async (platform: image.Platform): Promise<string> => (await images.pull(reference, { platform })).id;
  assert.equal(await pulled({ os: "linux", architecture: "arm", variant: "v7" }), variants[1]?.built.id);
  assert.equal(await pulled({ os: "linux", architecture: "arm" }), variants[1]?.built.id, "arm is v7");
  assert.equal(await pulled({ os: "linux", architecture: "arm", variant: "v6" }), variants[0]?.built.id);
  assert.equal(await pulled({ os: "linux", architecture: "arm64" }), variants[1]?.built.id, "which runs v7 too");
  await assert.rejects(
    pulled({ os: "linux", architecture: "arm", variant: "v5" }),
    isError("Unsupported", /no image for linux\/arm\/v5 .* only for unknown\/unknown, linux\/arm\/v6, linux\/arm\/v7/),
  );
});

const push = (registry: FakeRegistry, tag: string, bytes: Buffer, type: string): string => {
  registry.document("a", tag, bytes, type);
  return `${registry.host}/a:${tag}`;
};

test("what is no image is refused, and says what it is", skip, async (t) => {
  const [registry, rig] = [await registryFor(t), await rigFor(t)];
  const images = await openImages(t, rig);
  const built = app("x");
  registry.push("a", "1", built);
  const chart = changed(built, (document) => {
    document["artifactType"] = "application/vnd.cncf.helm.chart";
    (document["config"] as { mediaType: string }).mediaType = "application/vnd.cncf.helm.config.v1+json";
  });
  await assert.rejects(
    images.pull(push(registry, "chart", chart, MEDIA.ociManifest)),
    isError(
      "Unsupported",
      /not an image that can run: its config is of type .*helm\.config.* \(artifact .*helm\.chart\)/,
    ),
  );
  const old = Buffer.from(JSON.stringify({ schemaVersion: 1, fsLayers: [] }));
  await assert.rejects(
    images.pull(push(registry, "old", old, MEDIA.dockerManifestV1Signed)),
    isError("Unsupported", /Docker's schema 1, which registries have dropped: push the image again/),
  );
  const other = Buffer.from(JSON.stringify({ schemaVersion: 2, mediaType: "application/vnd.other+json" }));
  await assert.rejects(
    images.pull(push(registry, "other", other, "application/vnd.other+json")),
    isError("Unsupported", /of type application\/vnd\.other\+json, which is no image/),
  );
  assert.deepEqual(images.list(), []);
  assert.deepEqual(leftovers(rig.root), []);
});
