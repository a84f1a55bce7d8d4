/** Imports: OCI layouts and docker archives, made here and by skopeo where it is installed. */
import assert from "node:assert/strict";
import { spawnSync } from "node:child_process";
import { createReadStream, mkdirSync, readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import test from "node:test";
import { gzipSync, zstdCompressSync } from "node:zlib";
import { image } from "@berth/spec";
import type { ImageErrorCode } from "../src/errors.ts";
import { isError, rigFor, skip } from "./support/fixtures.ts";
import { build, type BuiltImage, digest, FakeRegistry } from "./support/registry.ts";
import { leftovers, openImages, overlayOf, scratch } from "./support/store.ts";
import { archive, type Member } from "./support/tar-writer.ts";

async function* chunks(bytes: Uint8Array, size = 10_000): AsyncGenerator<Uint8Array, void, undefined> {
  for (let at = 0; at < bytes.length; at += size) yield bytes.subarray(at, at + size);
}

const tars = [
  archive({ name: "etc/", type: "5", mode: 0o755 }, { name: "etc/name", data: "base" }),
  archive({ name: "etc/more", data: "top" }),
];
const built = build(tars);

/** A docker archive as old `docker save` wrote it: uncompressed layers, a repeated one as a symlink. */
function dockerArchive(tags: readonly string[], layers = tars): Buffer {
  const config = build(layers, { compress: (tar) => tar }).config;
  const members: Member[] = [{ name: `${digest(config).slice(7)}.json`, data: config }];
  const names = layers.map((tar, index) => {
    const first = layers.indexOf(tar);
    const name = `layer${index}/layer.tar`;
    members.push(first < index ? { name, type: "2", link: `../layer${first}/layer.tar` } : { name, data: tar });
    return name;
  });
  return archive(...members, {
    name: "manifest.json",
    data: JSON.stringify([{ Config: `${digest(config).slice(7)}.json`, RepoTags: tags, Layers: names }]),
  });
}

function layoutMembers(
  images: readonly {
    readonly built: BuiltImage;
    readonly annotations?: Record<string, string>;
    readonly platform?: image.Platform;
  }[],
): Member[] {
  const members = new Map<string, Member>();
  const blob = (bytes: Buffer): void =>
    void members.set(digest(bytes), { name: `blobs/sha256/${digest(bytes).slice(7)}`, data: bytes });
  for (const {
    built: { manifest, config, layers },
  } of images)
    for (const bytes of [manifest, config, ...layers]) blob(bytes);
  const manifests = images.map(({ built: { manifest, manifestDigest }, annotations, platform }) => ({
    mediaType: image.MEDIA.ociManifest,
    digest: manifestDigest,
    size: manifest.length,
    ...(annotations === undefined ? {} : { annotations }),
    ...(platform === undefined ? {} : { platform }),
  }));
  return [
    { name: "oci-layout", data: '{"imageLayoutVersion":"1.0.0"}' },
    { name: "index.json", data: JSON.stringify({ schemaVersion: 2, manifests }) },
    ...members.values(),
  ];
}

for (const [name, compress] of [
  ["plain", (bytes: Buffer) => bytes],
  ["gzip", gzipSync],
  ["zstd", zstdCompressSync],
] as const) {
  test(`a docker archive, ${name}`, skip, async (t) => {
    const rig = await rigFor(t);
    const images = await openImages(t, rig);
    const records = await images.importArchive(
      chunks(compress(dockerArchive(["busybox:1", "other/name:x"], [...tars, tars[1] as Buffer]))),
    );
    assert.equal(records.length, 1);
    assert.deepEqual([...(records[0]?.tags ?? [])].sort(), ["docker.io/library/busybox:1", "docker.io/other/name:x"]);
    assert.equal(images.find("busybox:1")?.id, records[0]?.id);
    const rootfs = await images.prepareRootfs("c", "busybox:1");
    assert.equal(overlayOf(rootfs).lowers.length, 3);
    assert.equal(readFileSync(join(overlayOf(rootfs).lowers[1] as string, "etc/more"), "utf8"), "top");
    await images.removeRootfs("c");
    await images.remove("busybox:1");
    assert.deepEqual(leftovers(rig.root), []);
  });
}

test("an OCI archive: names by either annotation, platforms, several images", skip, async (t) => {
  const rig = await rigFor(t);
  const images = await openImages(t, rig);
  const other = build([tars[0] as Buffer]);
  const records = await images.importArchive(
    chunks(
      archive(
        ...layoutMembers([
          { built, annotations: { "org.opencontainers.image.ref.name": "quay.io/a/b:1" } },
          {
            built: other,
            annotations: {
              "io.containerd.image.name": "docker.io/library/c:2",
              "org.opencontainers.image.ref.name": "2",
            },
          },
        ]),
      ),
    ),
  );
  assert.deepEqual(
    records.map(({ tags }) => tags),
    [["quay.io/a/b:1"], ["docker.io/library/c:2"]],
  );
  assert.deepEqual(
    records.map(({ id }) => id),
    [built.id, other.id],
  );
});

test("an archive without a name takes the one given, or has none", skip, async (t) => {
  const images = await openImages(t, await rigFor(t));
  const bytes = archive(...layoutMembers([{ built, annotations: { "org.opencontainers.image.ref.name": "latest" } }]));
  const [nameless] = await images.importArchive(chunks(bytes));
  assert.deepEqual([nameless?.tags, nameless?.digests], [[], []]);
  assert.equal(images.find(built.id.slice(7, 20))?.id, built.id);
  const [named] = await images.importArchive(chunks(bytes), { name: "mine" });
  assert.deepEqual(named?.tags, ["docker.io/library/mine:latest"]);
  assert.equal(images.list().length, 1);
  await assert.rejects(images.importArchive(chunks(bytes), { name: "Not Good" }), isError("InvalidReference"));
});

test("of manifests for several platforms without names the one for this machine", skip, async (t) => {
  const images = await openImages(t, await rigFor(t));
  const arm = build([tars[0] as Buffer], { platform: { os: "linux", architecture: "arm64" } });
  const amd = build([tars[0] as Buffer], { platform: { os: "linux", architecture: "amd64" } });
  const both = layoutMembers([
    { built: arm, platform: { os: "linux", architecture: "arm64" } },
    { built: amd, platform: { os: "linux", architecture: "amd64" } },
  ]);
  const records = await images.importArchive(chunks(archive(...both)), {
    platform: { os: "linux", architecture: "amd64" },
  });
  assert.deepEqual(
    records.map(({ id }) => id),
    [amd.id],
  );
});

test("docker's newer archives, which are both: the layout counts, with docker's names", skip, async (t) => {
  const images = await openImages(t, await rigFor(t));
  const manifest = [
    {
      Config: `blobs/sha256/${built.id.slice(7)}`,
      RepoTags: ["both:1"],
      Layers: built.layers.map((layer) => `blobs/sha256/${digest(layer).slice(7)}`),
    },
  ];
  const [record] = await images.importArchive(
    chunks(
      archive(...layoutMembers([{ built, annotations: { "org.opencontainers.image.ref.name": "1" } }]), {
        name: "manifest.json",
        data: JSON.stringify(manifest),
      }),
    ),
  );
  assert.deepEqual([record?.id, record?.tags], [built.id, ["docker.io/library/both:1"]]);
});

test("a layout in a directory is left as it is", skip, async (t) => {
  const rig = await rigFor(t);
  const directory = join(scratch(t), "layout");
  for (const { name, data } of layoutMembers([
    { built, annotations: { "org.opencontainers.image.ref.name": "a/b:1" } },
  ])) {
    mkdirSync(join(directory, name as string, ".."), { recursive: true });
    writeFileSync(join(directory, name as string), data as string);
  }
  const images = await openImages(t, rig);
  for (let round = 0; round < 2; round++) {
    const [record] = await images.importLayout(directory);
    assert.deepEqual(record?.tags, ["docker.io/a/b:1"]);
    await images.remove("a/b:1");
    assert.deepEqual(leftovers(rig.root), []);
  }
  await assert.rejects(images.importLayout(join(directory, "blobs")), isError("InvalidImage", /neither an OCI layout/));
});

test("an image that is here already, pulled or imported, is the same image", skip, async (t) => {
  const registry = await FakeRegistry.start();
  t.after(() => registry.close());
  const images = await openImages(t, await rigFor(t));
  const pulled = await images.pull(registry.push("a", "1", built));
  const [imported] = await images.importArchive(
    chunks(archive(...layoutMembers([{ built, annotations: { "org.opencontainers.image.ref.name": "quay.io/a:1" } }]))),
  );
  assert.equal(imported?.id, pulled.id);
  assert.equal(images.list().length, 1);
  assert.equal(imported?.tags.length, 2);
});

const damaged = (name: string, data: string | Buffer): Buffer =>
  archive(...layoutMembers([{ built }]).map((member) => (member.name === name ? { ...member, data } : member)));
const blobName = (bytes: Buffer): string => `blobs/sha256/${digest(bytes).slice(7)}`;
const top = built.layers[1] as Buffer;
const BAD: readonly (readonly [name: string, bytes: Buffer, code: ImageErrorCode, message: RegExp])[] = [
  ["an empty archive", archive(), "InvalidImage", /neither an OCI layout/],
  ["no archive", Buffer.alloc(3000, "no tar"), "InvalidImage", /tar/],
  ["an archive cut short", archive(...layoutMembers([{ built }])).subarray(0, 3000), "InvalidImage", /truncated/],
  ["an index that is no JSON", damaged("index.json", "{"), "InvalidImage", /index\.json is no JSON/],
  ["a layer with other content", damaged(blobName(top), Buffer.alloc(top.length)), "DigestMismatch", /layer/],
  ["a manifest with other content", damaged(blobName(built.manifest), "{}"), "DigestMismatch", /blob/],
  [
    "a missing config",
    archive(...layoutMembers([{ built }]).filter(({ name }) => name !== blobName(built.config))),
    "InvalidImage",
    /missing/,
  ],
  [
    "a missing layer",
    archive(...layoutMembers([{ built }]).filter(({ name }) => name !== blobName(top))),
    "InvalidImage",
    /missing/,
  ],
  [
    "a docker archive without its config",
    archive({ name: "manifest.json", data: '[{"Config":"x.json","Layers":[]}]' }),
    "InvalidImage",
    /x\.json is missing/,
  ],
  [
    "a docker archive whose layer leads nowhere",
    archive(
      { name: "manifest.json", data: '[{"Config":"x.json","Layers":["l"]}]' },
      { name: "x.json", data: built.config },
      { name: "l", type: "2", link: "l" },
    ),
    "InvalidImage",
    /layer l is missing/,
  ],
  [
    "a docker manifest that is none",
    archive({ name: "manifest.json", data: '{"Config":5}' }),
    "InvalidImage",
    /no list of images/,
  ],
  [
    "a digest that leads out",
    archive({
      name: "index.json",
      data: JSON.stringify({
        schemaVersion: 2,
        manifests: [{ mediaType: image.MEDIA.ociManifest, digest: "sha256:../../etc/passwd", size: 1 }],
      }),
    }),
    "InvalidImage",
    /hexadecimal/,
  ],
  ["a layout without an image", archive(...layoutMembers([])), "InvalidImage", /no image for/],
];
for (const [name, bytes, code, message] of BAD) {
  test(`${name}: one clear error, nothing left`, skip, async (t) => {
    const rig = await rigFor(t);
    const images = await openImages(t, rig);
    await assert.rejects(images.importArchive(chunks(bytes)), isError(code, message));
    assert.deepEqual(images.list(), []);
    assert.deepEqual(leftovers(rig.root), []);
  });
}

test("a stream that fails ends the import with its reason, an abort at once", skip, async (t) => {
  const rig = await rigFor(t);
  const images = await openImages(t, rig);
  async function* failing(): AsyncGenerator<Uint8Array, void, undefined> {
    yield dockerArchive(["x"]).subarray(0, 600);
    throw new Error("the client went away");
  }
  await assert.rejects(images.importArchive(failing()), isError("Canceled", /the client went away/));
  const abort = new AbortController();
  const waiting = Promise.withResolvers<void>();
  async function* stalling(): AsyncGenerator<Uint8Array, void, undefined> {
    yield dockerArchive(["x"]).subarray(0, 600);
    waiting.resolve();
    await new Promise(() => undefined);
  }
  const result = assert.rejects(images.importArchive(stalling(), { signal: abort.signal }), isError("Canceled"));
  await waiting.promise;
  abort.abort();
  await result;
  await images.close();
  assert.deepEqual(leftovers(rig.root), []);
});

for (const kind of ["docker-archive", "oci-archive"]) {
  test(`what skopeo writes as ${kind}`, skip, async (t) => {
    if (spawnSync("skopeo", ["--version"]).status !== 0) return t.skip("skopeo is not installed");
    const directory = scratch(t);
    for (const { name, data } of layoutMembers([
      { built, annotations: { "org.opencontainers.image.ref.name": "1" } },
    ])) {
      mkdirSync(join(directory, "layout", name as string, ".."), { recursive: true });
      writeFileSync(join(directory, "layout", name as string), data as string);
    }
    const copied = spawnSync(
      "skopeo",
      [
        "copy",
        "--insecure-policy",
        `oci:${directory}/layout:1`,
        `${kind}:${directory}/archive.tar:quay.io/from/skopeo:1`,
      ],
      { encoding: "utf8" },
    );
    assert.equal(copied.status, 0, copied.stderr);
    const images = await openImages(t, await rigFor(t));
    const [record] = await images.importArchive(createReadStream(join(directory, "archive.tar")), { name: "given" });
    assert.deepEqual(record?.diffIds, tars.map(digest));
    assert.deepEqual(record?.tags, ["quay.io/from/skopeo:1"]);
    return undefined;
  });
}
