/** Bundles of commands: used while they are of the sources as they are. */
import assert from "node:assert/strict";
import { mkdirSync, mkdtempSync, rmSync, utimesSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { test } from "node:test";
import { isFresh, MANIFEST, stampOf } from "../src/stamps.ts";

test("a bundle is fresh until a source is another, or gone", (t) => {
  const root = mkdtempSync(join(tmpdir(), "berth-bundle-"));
  t.after(() => rmSync(root, { recursive: true }));
  const out = join(root, "out");
  mkdirSync(out);
  for (const name of ["a.ts", "b.ts"]) writeFileSync(join(root, name), name);
  assert.equal(isFresh(root, out), false, "there is none");
  writeFileSync(join(out, MANIFEST), JSON.stringify(["a.ts", "b.ts"].map((name) => [name, stampOf(root, name)])));
  assert.equal(isFresh(root, out), true);
  utimesSync(join(root, "a.ts"), 1, 1);
  assert.equal(isFresh(root, out), false, "written since");
  writeFileSync(join(out, MANIFEST), JSON.stringify([["b.ts", stampOf(root, "b.ts")]]));
  assert.equal(isFresh(root, out), true);
  rmSync(join(root, "b.ts"));
  assert.equal(isFresh(root, out), false, "gone");
  writeFileSync(join(out, MANIFEST), "half of a fi");
  assert.throws(() => isFresh(root, out), /JSON/);
});
