/** The image store end to end, against a registry in this process. */
import assert from "node:assert/strict";
import { readFileSync, rmSync, statSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import test from "node:test";
import { zstdCompressSync } from "node:zlib";
import { image } from "@berth/spec";
import type { ImageRecord, Progress } from "../src/types.ts";
import { app, base, isError, layer, registryFor, rigFor, skip } from "./support/fixtures.ts";
import { build, digest } from "./support/registry.ts";
import { leftovers, openImages, overlayOf, type Rig } from "./support/store.ts";

test("a pull: record, progress, layers; a second one asks for nothing more", skip, async (t) => {
  const [registry, rig] = [await registryFor(t), await rigFor(t)];
  const built = app("one", { config: { Cmd: ["run"], User: "1000", Env: ["A=b"], Labels: { x: "y" } } });
  const reference = registry.push("team/app", "v1", built);
  const images = await openImages(t, rig);
  const seen: Progress[] = [];
  const record = await images.pull(reference, { progress: (progress) => seen.push(progress) });
  assert.equal(record.id, built.id);
  assert.deepEqual(record.tags, [reference]);
  assert.deepEqual(record.digests, [`${registry.host}/team/app@${built.manifestDigest}`]);
  assert.equal(
    record.size,
    built.manifest.length + built.config.length + built.layers.reduce((sum, blob) => sum + blob.length, 0),
  );
  assert.deepEqual(record.config, { Cmd: ["run"], User: "1000", Env: ["A=b"], Labels: { x: "y" } });
  assert.equal(record.diffIds.length, 2);
  assert.equal(record.pinned, false);
  for (const blob of built.layers) {
    const last = seen.findLast((progress) => progress.id === digest(blob));
    assert.deepEqual([last?.status, last?.doneBytes, last?.totalBytes], ["done", blob.length, blob.length]);
  }
  const rootfs = await images.prepareRootfs("c1", record);
  assert.equal(readFileSync(join(overlayOf(rootfs).lowers[0] as string, "tmp/app"), "utf8"), "one");
  const tmp = statSync(join(overlayOf(rootfs).lowers[0] as string, "tmp"));
  assert.deepEqual(
    [tmp.mode & 0o7777, tmp.mtimeMs],
    [0o1777, 1_600_000_000_000],
    "an implied directory looks like the one beneath",
  );
  assert.equal(statSync(join(overlayOf(rootfs).lowers[0] as string, "gone")).isCharacterDevice(), true);
  const before = registry.requests.length;
  assert.deepEqual(await images.pull(reference), record);
  assert.deepEqual(registry.requests.slice(before), [`HEAD /v2/team/app/manifests/v1`]);
});

test("many waiters, one download; images that share layers share them", skip, async (t) => {
  const [registry, rig] = [await registryFor(t), await rigFor(t)];
  const one = registry.push("a", "1", app("one"));
  const two = registry.push("b", "1", app("two"));
  const images = await openImages(t, rig);
  const records = await Promise.all([one, one, two, one, two].map(async (reference) => await images.pull(reference)));
  assert.deepEqual(new Set(records.map((record) => record.id)).size, 2);
  const baseBlob = app("one").layers[0] as Buffer;
  assert.equal(registry.count(new RegExp(`GET .*${digest(baseBlob)}`)), 1);
  for (const name of ["one", "two"])
    assert.equal(registry.count(new RegExp(`GET .*${digest(app(name).layers[1] as Buffer)}`)), 1);
  assert.equal(
    overlayOf(await images.prepareRootfs("x", records[0] as { id: string } as never)).lowers[1],
    overlayOf(await images.prepareRootfs("y", records[2] as { id: string } as never)).lowers[1],
  );
});

test("an image with the same layer several times", skip, async (t) => {
  const [registry, rig] = [await registryFor(t), await rigFor(t)];
  const empty = layer();
  const images = await openImages(t, rig);
  const record = await images.pull(registry.push("a", "1", build([base, empty, empty, empty])));
  assert.equal(overlayOf(await images.prepareRootfs("c", record)).lowers.length, 4);
  assert.equal(registry.count(/blobs/), 3, "config, base and one empty layer");
});

for (const [name, options] of [
  ["zstd", { compress: zstdCompressSync, layerType: image.MEDIA.ociLayerZstd }],
  ["no compression", { compress: (tar: Buffer) => tar, layerType: image.MEDIA.ociLayer }],
  ["gzip under the name of plain tar", { layerType: image.MEDIA.ociLayer }],
] as const) {
  test(`layers of ${name}`, skip, async (t) => {
    const [registry, rig] = [await registryFor(t), await rigFor(t)];
    const images = await openImages(t, rig);
    const record = await images.pull(registry.push("a", "1", app("x", options)));
    const rootfs = await images.prepareRootfs("c", record);
    assert.equal(readFileSync(join(overlayOf(rootfs).lowers[0] as string, "tmp/app"), "utf8"), "x");
  });
}

test("a tag that moves: the old image stays without a name until it is removed", skip, async (t) => {
  const [registry, rig] = [await registryFor(t), await rigFor(t)];
  const images = await openImages(t, rig);
  const [old, fresh] = [app("old"), app("new")];
  const reference = registry.push("a", "latest", old);
  await images.pull(reference);
  registry.push("a", "latest", fresh);
  const record = await images.pull(reference);
  assert.equal(record.id, fresh.id);
  assert.equal(images.find(reference)?.id, fresh.id);
  assert.deepEqual(images.find(old.id)?.tags, []);
  assert.deepEqual(images.find(old.id)?.digests, [`${registry.host}/a@${old.manifestDigest}`]);
  await images.remove(old.id);
  assert.deepEqual(
    images.list().map(({ id }) => id),
    [fresh.id],
  );
  const rootfs = await images.prepareRootfs("c", record);
  assert.equal(readFileSync(join(overlayOf(rootfs).lowers[0] as string, "tmp/app"), "utf8"), "new");
});

test("removal by one tag drops all; layers in use stay until they are not", skip, async (t) => {
  const [registry, rig] = [await registryFor(t), await rigFor(t)];
  const images = await openImages(t, rig);
  const built = app("x");
  const references = ["1", "2"].map((tag) => registry.push("a", tag, built)).concat(registry.push("b", "1", built));
  for (const reference of references) await images.pull(reference);
  assert.deepEqual([...(images.list()[0]?.tags ?? [])].sort(), [...references].sort());
  const rootfs = await images.prepareRootfs("container", references[0] as string);
  await images.remove(references[1] as string);
  assert.deepEqual(images.list(), []);
  assert.equal(readFileSync(join(overlayOf(rootfs).lowers[0] as string, "tmp/app"), "utf8"), "x");
  assert.deepEqual(images.rootfs("container"), rootfs);
  assert.deepEqual(
    leftovers(rig.root).filter((path) => !path.startsWith("snapshots")),
    [],
    "blobs are not needed by a container",
  );
  await images.removeRootfs("container");
  assert.deepEqual(leftovers(rig.root), []);
});

test("images are found by every name they have", skip, async (t) => {
  const [registry, rig] = [await registryFor(t), await rigFor(t)];
  const images = await openImages(t, rig, { pinned: [`${registry.host}/pin*`] });
  const built = app("x");
  const id = built.id;
  const reference = registry.push("a", "latest", built);
  await images.pull(reference);
  for (const name of [
    reference,
    `${registry.host}/a`,
    `${registry.host}/a@${built.manifestDigest}`,
    `${registry.host}/a:latest@${built.manifestDigest}`,
    id,
    id.slice(7),
    id.slice(7, 19),
    id.slice(0, 20),
  ])
    assert.equal(images.find(name)?.id, id, name);
  for (const name of [
    "",
    "a",
    `${registry.host}/a:2`,
    `${registry.host}/b`,
    id.slice(7, 10),
    "sha256:",
    `${registry.host}/a@${id}`,
  ])
    assert.equal(images.find(name), undefined, name);
  assert.equal((await images.pull(registry.push("pinned", "1", app("y")))).pinned, true);
  const other = app("z");
  await images.pull(`${registry.push("c", "1", other).replace(/:1$/, "")}@${other.manifestDigest}`);
  assert.deepEqual(images.find(other.id)?.tags, []);
});

test("users of an image, also through symlinks", skip, async (t) => {
  const [registry, rig] = [await registryFor(t), await rigFor(t)];
  const images = await openImages(t, rig);
  const record = await images.pull(
    registry.push(
      "a",
      "1",
      build([
        base,
        layer(
          { name: "etc/.wh.group" },
          { name: "etc/passwd", type: "2", link: "/opt/users" },
          { name: "opt/users", data: "me:x:1:1\n" },
        ),
      ]),
    ),
  );
  const users = await images.userDatabase(record);
  assert.equal(Buffer.from(users.passwd ?? "").toString(), "me:x:1:1\n");
  assert.equal(users.group, undefined);
  const scratch = await images.pull(registry.push("b", "1", build([])));
  assert.deepEqual(await images.userDatabase(scratch), {});
  assert.equal(overlayOf(await images.prepareRootfs("nothing", scratch)).lowers.length, 1);
});

test("usage counts blobs, layers and what containers wrote", skip, async (t) => {
  const [registry, rig] = [await registryFor(t), await rigFor(t)];
  const images = await openImages(t, rig);
  const empty = await images.usage();
  assert.deepEqual(empty, { mountpoint: rig.root, usedBytes: 0, inodesUsed: 0 });
  const record = await images.pull(registry.push("a", "1", app("x")));
  const pulled = await images.usage();
  assert.ok(pulled.usedBytes > record.size && pulled.inodesUsed >= 8);
  const rootfs = await images.prepareRootfs("c", record);
  writeFileSync(join(overlayOf(rootfs).upper, "big"), Buffer.alloc(1 << 20, 1));
  assert.ok((await images.rootfsUsage("c")).bytes >= 1 << 20);
  assert.ok((await images.usage()).usedBytes >= pulled.usedBytes + (1 << 20));
  assert.deepEqual(images.rootfsKeys(), ["c"]);
  await assert.rejects(images.rootfsUsage("none"), isError("NotFound"));
  type Sizes = { bytes: number; unique: number };
  const sizeOf = ({ id }: ImageRecord): Sizes => images.imageSizes().get(id) as Sizes;
  const alone = sizeOf(record);
  assert.deepEqual(alone, { bytes: pulled.usedBytes, unique: pulled.usedBytes });
  const second = await images.pull(registry.push("b", "1", app("y")));
  const [one, two] = [sizeOf(record), sizeOf(second)];
  assert.equal(one.bytes, alone.bytes);
  assert.ok(one.unique > 0 && one.unique < one.bytes && two.unique > 0, "they share a layer");
  const { bytes } = images.imageUsage(new Set());
  assert.equal(bytes, one.unique + two.unique + (one.bytes - one.unique));
});

test("two stores side by side", skip, async (t) => {
  const registry = await registryFor(t);
  const rigs = [await rigFor(t), await rigFor(t)];
  const reference = registry.push("a", "1", app("x"));
  const stores = await Promise.all(rigs.map(async (rig) => await openImages(t, rig)));
  const records = await Promise.all(stores.map(async (images) => await images.pull(reference)));
  assert.deepEqual(records[0], records[1]);
  await stores[0]?.remove(reference);
  assert.equal(stores[1]?.list().length, 1);
  assert.deepEqual(leftovers((rigs[0] as Rig).root), []);
});

test("everything is there again after a restart", skip, async (t) => {
  const [registry, rig] = [await registryFor(t), await rigFor(t)];
  const first = await openImages(t, rig);
  const record = await first.pull(registry.push("a", "1", app("x")));
  const rootfs = await first.prepareRootfs("c", record);
  await first.close();
  const second = await openImages(t, rig);
  assert.deepEqual(second.list(), [record]);
  assert.deepEqual(second.rootfs("c"), rootfs);
  assert.deepEqual(await second.recover(), []);
});

test("an image that lost its content is dropped at start, and can be pulled again", skip, async (t) => {
  const [registry, rig] = [await registryFor(t), await rigFor(t)];
  const built = app("x");
  const reference = registry.push("a", "1", built);
  for (const damage of [
    () => rmSync(join(rig.root, "content/blobs/sha256", built.id.slice(7))),
    () => writeFileSync(join(rig.root, "content/blobs/sha256", built.manifestDigest.slice(7)), "{}"),
  ]) {
    const before = await openImages(t, rig);
    await before.pull(reference);
    await before.close();
    damage();
    const images = await openImages(t, rig);
    assert.deepEqual(images.list(), []);
    assert.deepEqual(leftovers(rig.root), []);
    assert.equal((await images.pull(reference)).id, built.id);
    await images.close();
  }
});
