/** Images that are made to do harm: refused with the limit's name, or unpacked safely; nothing is left of them. */
import assert from "node:assert/strict";
import { readdirSync } from "node:fs";
import test, { type TestContext } from "node:test";
import { gzipSync } from "node:zlib";
import { image } from "@berth/spec";
import { isError, registryFor, rigFor, skip } from "./support/fixtures.ts";
import { build, digest } from "./support/registry.ts";
import { ImageError } from "../src/errors.ts";
import type { Images } from "../src/images.ts";
import { missingPrograms, scanRootfs } from "./support/scan.ts";
import { leftovers, openImages, type Rig, scratch, whyNoBosun } from "./support/store.ts";
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

const latin1 = (text: string): Uint8Array => Buffer.from(text, "latin1");

for (const snapshotter of ["erofs", "overlayfs", "native"] as const) {
  test(`paths, symlinks and hard links that lead out stay within, or are refused: ${snapshotter}`, skip, async (t) => {
    const why = whyNoBosun();
    if (why !== undefined) return t.skip(why);
    const [registry, rig] = [await registryFor(t), await rigFor(t)];
    const images = await openWith(t, rig, snapshotter);
    if (images === undefined) return t.skip(`${snapshotter} does not work here`);
    const outside = scratch(t);
    const up = "../".repeat(20);
    const evil = build([
      archive(
        { name: `${up}escaped`, data: "x" },
        { name: `${outside}/absolute`, data: "x" },
        { name: "out", type: "2", link: outside },
        { name: "out/through", data: "x" },
        { name: "climb", type: "2", link: `${up}${outside.slice(1)}` },
        { name: "climb/up", data: "x" },
        { name: "replaced", type: "2", link: outside },
        { name: "replaced/", type: "5", mode: 0o755 },
        { name: "replaced/in", data: "x" },
        { name: "link", type: "1", link: `${up}escaped` },
      ),
      archive(
        { name: "out/later", data: "x" },
        { name: "climb/.wh.up" },
        { name: "late", type: "1", link: "climb/../escaped" },
        { name: `${outside.slice(1)}/.wh.absolute` },
      ),
    ]);
    const record = await images.pull(registry.push("evil", "1", evil));
    const rootfs = await images.prepareRootfs("c", record);
    assert.deepEqual(readdirSync(outside), [], "nothing is outside");
    const tree = scanRootfs(t, rootfs);
    const inside = Object.keys(tree).filter((path) => path.startsWith(`${outside}/`));
    assert.deepEqual(inside.sort(), [`${outside}/later`, `${outside}/through`]);
    assert.deepEqual(
      ["/escaped", "/link", "/late", "/replaced/in"].filter((path) => tree[path] === undefined),
      [],
    );
    await images.removeRootfs("c");
    for (const target of ["etc/shadow", `${up}etc/shadow`, "/etc/shadow", "out/../../../etc/shadow"])
      await assert.rejects(
        images.pull(registry.push("steals", "1", build([archive({ name: "l", type: "1", link: target })]))),
        isError("InvalidImage", /which no layer has|goes through/),
      );
    await images.remove(record.id);
    assert.deepEqual(leftovers(rig.root), []);
    return undefined;
  });

  test(`names, targets, owners and attributes that are no UTF-8: ${snapshotter}`, skip, async (t) => {
    const why = whyNoBosun() ?? missingPrograms("python3", "unshare");
    if (why !== undefined) return t.skip(why);
    const [registry, rig] = [await registryFor(t), await rigFor(t)];
    const images = await openWith(t, rig, snapshotter);
    if (images === undefined) return t.skip(`${snapshotter} does not work here`);
    const strange = "\xff\xfe\x80 \n\x01";
    const pax = (
      name: string,
      more: Record<string, string | Uint8Array> = {},
    ): { pax: Record<string, string | Uint8Array> } => ({
      pax: { path: latin1(name), ...more },
    });
    const lower = archive(
      { name: "d", type: "5", mode: 0o755, ...pax(`${strange}/`) },
      {
        name: "f",
        data: "x",
        ...pax(`${strange}/${strange}`, { "SCHILY.xattr.trusted.a": latin1(strange), uname: latin1(strange) }),
      },
      { name: "l", type: "2", ...pax(`link${strange}`, { linkpath: latin1(strange) }) },
      { name: "h", type: "1", ...pax(`hard${strange}`, { linkpath: latin1(`${strange}/${strange}`) }) },
      { name: "g", data: "x", ...pax(`gone${strange}`) },
    );
    const upper = archive(
      { name: "w", ...pax(`.wh.gone${strange}`) },
      { name: "n", data: "y", ...pax(`link${strange}/new`) },
    );
    const record = await images.pull(registry.push("strange", "1", build([lower, upper])));
    const tree = scanRootfs(t, await images.prepareRootfs("c", record));
    delete tree[""];
    assert.deepEqual(
      Object.keys(tree).sort(),
      [`/${strange}`, `/${strange}/${strange}`, `/${strange}/new`, `/hard${strange}`, `/link${strange}`].sort(),
    );
    assert.equal(tree[`/link${strange}`]?.["target"], strange);
    assert.deepEqual(tree[`/${strange}/${strange}`]?.["xattrs"], {
      "trusted.a": Buffer.from(strange, "latin1").toString("hex"),
    });
    await images.removeRootfs("c");
    return undefined;
  });
}

/** Undefined: that snapshotter does not work here. */
async function openWith(
  t: TestContext,
  rig: Rig,
  snapshotter: "erofs" | "overlayfs" | "native",
): Promise<Images | undefined> {
  try {
    return await openImages(t, rig, { snapshotter });
  } catch (error) {
    if (error instanceof ImageError && error.code === "Unsupported") return undefined;
    throw error;
  }
}
