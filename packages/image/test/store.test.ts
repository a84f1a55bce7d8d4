/** The database and the content store by themselves. */
import assert from "node:assert/strict";
import { spawnSync } from "node:child_process";
import { existsSync, mkdirSync, readdirSync, statSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { DatabaseSync } from "node:sqlite";
import test from "node:test";
import { digestOf } from "@berth/spec";
import { ContentStore } from "../src/store/content.ts";
import { openDatabase } from "../src/store/database.ts";
import { dropTemporaryLeases, Lease } from "../src/store/leases.ts";
import { IMAGE_SCHEMA } from "../src/store/schema.ts";
import { build, FakeRegistry } from "./support/registry.ts";
import { bosunRig, leftovers, openImages, plainRig, scratch, whyNoBosun } from "./support/store.ts";
import { archive } from "./support/tar-writer.ts";

test("migrations of several areas are applied once, in order, and a newer schema is refused", async (t) => {
  const root = scratch(t);
  const steps = ["CREATE TABLE a (x INTEGER)", "INSERT INTO a VALUES (1)"];
  for (let round = 0; round < 2; round++) {
    const database = await openDatabase(root);
    database.migrate("one", steps);
    database.migrate("two", ["CREATE TABLE b (x INTEGER)"]);
    assert.equal(database.sql.prepare("SELECT count(*) AS n FROM a").get()?.["n"], 1);
    await database.close();
  }
  const database = await openDatabase(root);
  database.migrate("one", [...steps, "INSERT INTO a VALUES (2)"]);
  assert.throws(
    () => database.migrate("one", steps),
    /written by a newer version \(one schema 3, this version knows 2\)/,
  );
  assert.throws(() => database.migrate("three", ["CREATE TABLE c (x INTEGER)", "nonsense"]));
  assert.equal(
    database.sql.prepare("SELECT max(step) AS step FROM migrations WHERE area = 'three'").get()?.["step"],
    1,
    "a step that fails is not recorded",
  );
  await database.close();
});

test("a transaction is whole or not at all, and holds those within it", async (t) => {
  const database = await openDatabase(scratch(t));
  database.migrate("x", ["CREATE TABLE a (x INTEGER)"]);
  const insert = (value: number): unknown =>
    database.transaction((sql) => sql.prepare("INSERT INTO a VALUES (?)").run(value));
  assert.throws(
    () =>
      database.transaction(() => {
        insert(1);
        throw new Error("no");
      }),
    /no/,
  );
  database.transaction(() => {
    insert(2);
    insert(3);
  });
  assert.deepEqual(
    database.sql
      .prepare("SELECT x FROM a")
      .all()
      .map((row) => row["x"]),
    [2, 3],
  );
  await database.sync();
  await database.close();
  await database.close();
});

test("checkpoints happen behind the writer's back", async (t) => {
  const root = scratch(t);
  const database = await openDatabase(root);
  database.migrate("x", ["CREATE TABLE a (x TEXT)"]);
  database.transaction((sql) => sql.prepare("INSERT INTO a VALUES (?)").run("y".repeat(1_000_000)));
  const before = statSync(join(root, "berth.db")).size;
  const deadline = Date.now() + 60_000;
  // The file grows while the checkpoint goes on.
  const isWhole = (): boolean => statSync(join(root, "berth.db")).size > before + 900_000;
  while (!isWhole() && Date.now() < deadline) await new Promise((resolve) => setTimeout(resolve, 50));
  assert.ok(isWhole(), "the log has gone into the database");
  await database.close();
  assert.deepEqual(readdirSync(root), ["berth.db"]);
  const again = new DatabaseSync(join(root, "berth.db"));
  assert.equal(again.prepare("SELECT length(x) AS n FROM a").get()?.["n"], 1_000_000);
  again.close();
});

test("content: stored, read, verified; what was not committed goes at the next start", async (t) => {
  const root = scratch(t);
  const database = await openDatabase(root);
  t.after(() => database.close());
  database.migrate("image", IMAGE_SCHEMA);
  const store = await ContentStore.open(root, database);
  const [one, two] = [Buffer.from("one"), Buffer.from("two")];
  const [first, second] = [digestOf(one), digestOf(two)];
  await assert.rejects(store.put(first, two), { code: "DigestMismatch" });
  await store.put(first, one);
  await store.put(second, two);
  assert.deepEqual([store.has(first), store.size(second), store.has(digestOf(Buffer.from("three")))], [true, 3, false]);
  assert.deepEqual(await store.read(first), one);
  await store.sync([first]);
  database.transaction(() => store.commit([first]));
  store.committed([first]);
  const long = digestOf(one, "sha512");
  await store.put(long, one);
  assert.ok(existsSync(store.path(long)));
  writeFileSync(store.newIngest(), "half");
  mkdirSync(join(root, "content/blobs/sha256/nonsense"));
  const again = await ContentStore.open(root, database);
  const done = await again.recover();
  assert.equal(done.filter((line) => line.includes("not in the database")).length, 2);
  assert.equal(done.filter((line) => line.includes("unfinished")).length, 1);
  assert.deepEqual([again.has(first), again.has(second), existsSync(store.path(second))], [true, false, false]);
  assert.deepEqual(await again.recover(), []);
  writeFileSync(again.path(first), "0ne");
  await assert.rejects(again.read(first), { code: "DigestMismatch" });
  writeFileSync(again.path(first), "longer");
  assert.match((await again.recover()).join(), /6 bytes long instead of 3/);
  await assert.rejects(again.read(first), { code: "NotFound" });
});

test("leases end by release or, temporary ones, with their process", async (t) => {
  const database = await openDatabase(scratch(t));
  t.after(() => database.close());
  database.migrate("image", IMAGE_SCHEMA);
  const count = (): unknown => database.sql.prepare("SELECT count(*) AS n FROM lease_refs").get()?.["n"];
  const [kept, gone, released] = [new Lease(database, false), new Lease(database, true), new Lease(database, true)];
  for (const lease of [kept, gone, released]) {
    lease.content("sha256:a", "sha256:b", "sha256:a");
    lease.chains("sha256:a");
  }
  assert.equal(count(), 9);
  released.release();
  assert.equal(count(), 6);
  assert.equal(dropTemporaryLeases(database), 1);
  assert.equal(count(), 3);
});

test("a full disk: NoSpace, and nothing left", async (t) => {
  if (process.getuid?.() !== 0) return t.skip("needs root");
  const directory = scratch(t);
  const rig = whyNoBosun() === undefined ? await bosunRig(t) : plainRig(t);
  const root = join(directory, "small");
  mkdirSync(root);
  if (spawnSync("mount", ["-t", "tmpfs", "-o", "size=4m", "berth-test", root]).status !== 0)
    return t.skip("cannot mount a tmpfs here");
  const registry = await FakeRegistry.start();
  const { randomBytes } = await import("node:crypto");
  const noise = randomBytes(3 << 20);
  const images = await openImages(t, { ...rig, root });
  try {
    for (const [name, tar] of [
      ["blob and tree together", archive({ name: "f", data: noise })],
      ["the tree", archive({ name: "f", data: Buffer.alloc(8 << 20) })],
    ] as const) {
      await assert.rejects(
        images.pull(registry.push("a", "1", build([tar]))),
        (error: { code?: string; message?: string }) =>
          error.code === "NoSpace" && /no space left/i.test(error.message ?? ""),
        name,
      );
      assert.deepEqual(leftovers(root), [], name);
    }
    const small = await images.pull(registry.push("a", "2", build([archive({ name: "f", data: "fits" })])));
    assert.equal(images.list()[0]?.id, small.id);
  } finally {
    await images.close();
    await registry.close();
    spawnSync("umount", [root]);
  }
  return undefined;
});
