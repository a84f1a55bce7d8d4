/** A store that was damaged, checked, and saved. */
import assert from "node:assert/strict";
import { execFileSync } from "node:child_process";
import { existsSync, mkdirSync, readdirSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { DatabaseSync } from "node:sqlite";
import test from "node:test";
import { Images } from "../src/images.ts";
import { app, isError, registryFor, rigFor, skip } from "./support/fixtures.ts";
import { digest } from "./support/registry.ts";
import { atEnd, leftovers, openImages, optionsFor, overlayOf, whyNoBosun } from "./support/store.ts";

for (const [what, damage] of [
  ["are gone", (root: string) => rmSync(join(root, "snapshots"), { recursive: true })],
  [
    "were not on the disk when the power went",
    (root: string) => {
      for (const id of readdirSync(join(root, "snapshots"))) {
        const home = join(root, "snapshots", id);
        for (const name of readdirSync(home)) rmSync(join(home, name), { recursive: true });
        writeFileSync(join(home, "layer.erofs"), "half");
      }
      const database = new DatabaseSync(join(root, "berth.db"));
      database.exec("UPDATE snapshots SET boot = 'the one before' WHERE kind = 'layer'");
      database.close();
    },
  ],
] as const) {
  test(`layers that ${what} are unpacked again from their blobs`, skip, async (t) => {
    const [registry, rig] = [await registryFor(t), await rigFor(t)];
    const before = await openImages(t, rig);
    const record = await before.pull(registry.push("a", "1", app("x")));
    await before.close();
    damage(rig.root);
    const images = await Images.open(optionsFor(rig));
    atEnd(t, () => images.close());
    const done = await images.recover();
    assert.equal(
      done.filter((line) => /unpacked layer sha256:[0-9a-f]{64} again/.test(line)).length,
      2,
      done.join("; "),
    );
    assert.equal(images.list()[0]?.id, record.id);
    const rootfs = await images.prepareRootfs("c", record);
    assert.equal(readFileSync(join(overlayOf(rootfs).lowers[0] as string, "tmp/app"), "utf8"), "x");
    assert.deepEqual(await images.recover(), []);
    await images.removeRootfs("c");
    await images.remove(record.id);
    assert.deepEqual(leftovers(rig.root), []);
  });
}

test("fsck finds a damaged blob, a damaged layer and strays, and repairs what it can", skip, async (t) => {
  const [registry, rig] = [await registryFor(t), await rigFor(t)];
  const images = await openImages(t, rig);
  const built = app("x");
  const record = await images.pull(registry.push("a", "1", built));
  const problems = async (repair: boolean): Promise<string[]> => {
    const found: string[] = [];
    for await (const { kind, problem, repair: done = "" } of images.check({ repair }))
      found.push(`${kind}: ${problem} / ${done}`);
    return found;
  };
  assert.deepEqual(await problems(false), []);
  const [layer] = readdirSync(join(rig.root, "snapshots"));
  const file = join(
    rig.root,
    "snapshots",
    layer as string,
    whyNoBosun() === undefined ? "layer.erofs" : "fs/etc/passwd",
  );
  writeFileSync(file, Buffer.concat([readFileSync(file), Buffer.alloc(100, "damage")]));
  mkdirSync(join(rig.root, "snapshots", "4711"));
  writeFileSync(join(rig.root, "content/blobs/sha256", "0".repeat(64)), "stray");
  const found = await problems(false);
  assert.equal(found.length, 3, found.join("; "));
  assert.match(found.join("; "), /^layer: .*(length|content).*; file: is in no record .*; file: is in no record/);
  assert.deepEqual(await problems(false), found, "looking changes nothing");
  assert.ok((await problems(true)).every((line) => / \/ (unpacked again|removed)$/.test(line)));
  assert.deepEqual(await problems(false), []);
  const rootfs = await images.prepareRootfs("c", record);
  assert.equal(readFileSync(join(overlayOf(rootfs).lowers[0] as string, "tmp/app"), "utf8"), "x");
  const blob = join(rig.root, "content/blobs/sha256", digest(built.layers[0] as Buffer).slice(7));
  writeFileSync(blob, "damage");
  const [first = "", second = ""] = await problems(true);
  assert.match(first, /^blob: has the content of sha256:.* \/ removed: a pull brings it again$/);
  assert.match(second, /^layer: cannot be verified: its blob sha256:.* is not whole \/ $/);
  assert.equal((await images.pull(record.tags[0] as string)).id, record.id);
});

test(
  "fsck finds every kind of damage, and mends it: blobs, layers, records without files, files without records, mounts",
  skip,
  async (t) => {
    const why = whyNoBosun();
    if (why !== undefined) return t.skip(why);
    const [registry, rig] = [await registryFor(t), await rigFor(t)];
    const images = await openImages(t, rig);
    const built = app("x");
    const reference = registry.push("a", "1", built);
    const record = await images.pull(reference);
    const blobAt = (bytes: Buffer): string => join(rig.root, "content/blobs/sha256", digest(bytes).slice(7));
    const homes = readdirSync(join(rig.root, "snapshots")).map((id) => join(rig.root, "snapshots", id));
    const flip = (path: string): void => {
      const bytes = readFileSync(path);
      const at = bytes.length >> 1;
      bytes[at] = (bytes[at] as number) ^ 0x10;
      writeFileSync(path, bytes);
    };
    const layerFile = (home: string): string =>
      join(home, existsSync(join(home, "layer.erofs")) ? "layer.erofs" : "fs");
    const damages: Record<string, readonly [() => unknown, RegExp]> = {
      "a flipped byte of a blob": [
        () => flip(blobAt(built.layers[1] as Buffer)),
        /^blob: has the content of .* \/ removed/,
      ],
      "a blob that is gone": [() => rmSync(blobAt(built.layers[1] as Buffer)), /^blob: cannot be read \/ removed/],
      "a config that is gone": [() => rmSync(blobAt(built.config)), /^blob: .* \/ removed: a pull brings it again$/m],
      "a manifest with a flipped byte": [
        () => flip(blobAt(built.manifest)),
        /^blob: .* \/ removed: a pull brings it again$/m,
      ],
      "a layer that is gone": [
        () => rmSync(layerFile(homes[0] as string), { recursive: true }),
        /^layer: cannot be read: .* \/ unpacked again/,
      ],
      "a snapshot whose directory is gone": [
        () => rmSync(homes[1] as string, { recursive: true }),
        /^layer: cannot be read: .* \/ unpacked again/,
      ],
      "a directory without a record": [
        () => mkdirSync(join(rig.root, "snapshots/4711")),
        /^file: is in no record \/ removed/,
      ],
      "a file that is no blob": [
        () => writeFileSync(join(rig.root, "content/blobs/sha256", "1".repeat(64)), "x"),
        /^file: is in no record \/ removed/,
      ],
      "a mount that nothing needs": [
        () => {
          mkdirSync(join(homes[0] as string, "fs"), { recursive: true });
          execFileSync("mount", ["-t", "tmpfs", "none", join(homes[0] as string, "fs")]);
        },
        /^mount: is mounted, and no container uses it \/ unmounted/,
      ],
      "a container's layer that is gone": [
        async () => {
          await images.prepareRootfs("gone", record);
          const { upper } = overlayOf(images.rootfs("gone") as never);
          rmSync(upper, { recursive: true });
        },
        /^rootfs: has a record, and its files are gone \/ forgotten/,
      ],
    };
    const problems = async (repair: boolean): Promise<string[]> => {
      const found: string[] = [];
      for await (const { kind, problem, repair: done = "" } of images.check({ repair }))
        found.push(`${kind}: ${problem} / ${done}`);
      return found;
    };
    for (const [what, [damage, message]] of Object.entries(damages)) {
      await damage();
      assert.match((await problems(true)).join("\n"), message, what);
      // What only the registry has is pulled again.
      await images.pull(reference);
      assert.deepEqual(await problems(false), [], `after ${what}`);
      const again = await images.prepareRootfs("c", reference);
      assert.equal(readFileSync(join(overlayOf(again).lowers[0] as string, "tmp/app"), "utf8"), "x", what);
      await images.removeRootfs("c");
    }
    await images.remove(reference);
    assert.deepEqual(leftovers(rig.root), []);
    return undefined;
  },
);

test(
  "what is saved is what was pulled: by docker's archive and as a layout, with the names that were asked for",
  skip,
  async (t) => {
    const [registry, rig] = [await registryFor(t), await rigFor(t)];
    const images = await openImages(t, rig);
    const one = await images.pull(registry.push("a", "1", app("one")));
    const two = await images.pull(registry.push("b", "2", app("two")));
    const parts: Uint8Array[] = [];
    for await (const chunk of images.exportArchive([one.tags[0] as string, two.id])) parts.push(chunk);
    const layout = join(rig.root, "layout");
    await images.exportLayout(layout, [one.id]);
    const other = await openImages(t, { ...(await rigFor(t)) });
    async function* stream(): AsyncGenerator<Uint8Array, void, undefined> {
      yield* parts;
    }
    const loaded = await other.importArchive(stream());
    assert.deepEqual(
      loaded.map(({ id, tags, manifest }) => [id, tags, manifest.digest]),
      [one, two].map(({ id, tags, manifest }) => [id, tags, manifest.digest]),
    );
    await other.remove(one.id);
    assert.deepEqual(
      (await other.importLayout(layout)).map(({ id, tags }) => [id, tags]),
      [[one.id, one.tags]],
    );
    await assert.rejects(images.exportArchive(["nothing"]).next(), isError("NotFound"));
    const { bytes, reclaimable } = images.imageUsage(new Set([one.id]));
    assert.ok(reclaimable > 0 && reclaimable < bytes, `${reclaimable} of ${bytes}`);
    assert.equal(images.imageUsage(new Set()).reclaimable, bytes);
  },
);
